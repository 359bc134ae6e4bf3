"""Words in an evaluation: kept while recogniser and sound stay as they were, and compared with whole texts alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.asr import RecogniserOptions
from speechdlm_ext.evaluation.eval_set import PromptOptions
from speechdlm_ext.evaluation.evaluation import EvaluationOptions, evaluate
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from tests.helpers.bundles import publish, write_weights
from tests.helpers.talks import take_turns, write_talk

SMALL = RecogniserOptions("torchaudio:SMALL_ASR")


def run(generated: Path, out: Path, asr: RecogniserOptions = SMALL, **options: Any) -> tuple[dict[str, Any], int]:
    """The figures, and how many dialogues were measured."""
    counted: list[int] = []

    def count(items: Iterable[Any], total: int) -> Iterable[Any]:
        counted.append(total)
        return items

    options = {"vad": "energy", "asr": asr, "num_workers": 1, **options}
    settings = EvaluationOptions(generated, bootstrap=BootstrapOptions(10), **options)
    result = evaluate(settings, out, count).result
    json.dumps(result, allow_nan=False)
    return result, counted[0]


@pytest.fixture
def talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    publish(monkeypatch, tmp_path)
    for number in range(3):
        write_talk(tmp_path / "talks" / f"t{number}.wav", take_turns(number, 20.0), 20, rate=16000, seed=number)
    return tmp_path / "talks"


@pytest.mark.commands
def test_what_was_understood_is_kept_while_it_holds(talks: Path, tmp_path: Path) -> None:
    out, weights = tmp_path / "out", tmp_path / "hub" / "checkpoints" / "small_asr.pth"
    plain, measured = run(talks, out, RecogniserOptions())
    assert measured == 3 and "words" not in plain["generated"]
    first, measured = run(talks, out)  # words alone are added
    words = first["generated"]["words"]
    assert measured == 3 and words["words"] > 0 and words["laughter_per_minute"] is None
    assert words["reason"] == "the recogniser has no tag for laughter"
    assert {**first["generated"], "words": None} == {**plain["generated"], "words": None}
    again, measured = run(talks, out)
    assert measured == 0 and again == first
    without, measured = run(talks, out, RecogniserOptions())
    assert measured == 0 and without == plain
    write_weights(weights, 2)  # another model under the same name
    other, measured = run(talks, out)
    assert measured == 3 and other["generated"]["words"] != first["generated"]["words"]
    fresh, _ = run(talks, tmp_path / "fresh")
    assert fresh == other
    cut, measured = run(talks, out, RecogniserOptions(SMALL.spec, 1.0))
    assert measured == 3 and cut["settings"]["recogniser_seconds"] == 1
    write_talk(talks / "t1.wav", take_turns(7, 20.0), 20, rate=16000)
    assert run(talks, out, RecogniserOptions(SMALL.spec, 1.0))[1] == 1


@pytest.mark.commands
def test_texts_are_compared_where_all_of_them_was_heard(talks: Path, tmp_path: Path) -> None:
    texts: list[Any] = ["TEA TON", ["TEA", "TON"], ["TEA", "TON", "NO"]]
    rows = [{"audio_filepath": str(talks / f"t{n}.wav"), "text": text} for n, text in enumerate(texts)]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rates = run(manifest, tmp_path / "out")[0]["generated"]["words"]["error_rates"]
    assert rates["utterances"] == 3 and rates["words"]["reference"] == 4  # one of both channels, and one for each
    assert rates["reason"] == "1 skipped: text is neither a string nor a list of 2, one for each channel"
    prompts = PromptOptions(prompt_seconds=5, continuation_seconds=10)
    part = run(manifest, tmp_path / "out", reference=manifest, prompts=prompts)[0]
    rates = part["generated"]["words"]["error_rates"]
    assert rates["words"]["corpus"] is None and rates["utterances"] == 0
    assert "3 skipped: the text is of the whole dialogue" in rates["reason"]
    assert part["generated"]["words"]["words"] < part["reference"]["words"]["words"]


def test_silence_has_no_rate_of_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, tmp_path)
    write_talk(tmp_path / "mute.wav", [[], []], 5)
    words = run(tmp_path / "mute.wav", tmp_path / "out")[0]["generated"]["words"]
    assert words["words"] == 0 and words["words_per_minute"] is None
    assert words["reason"] == "no speech was found; the recogniser has no tag for laughter"


@pytest.mark.commands
def test_words_of_a_short_recording(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")
    audio = str(data / "speech" / "ljspeech" / "LJ001-0008.flac")
    row = {"id": "one", "audio_filepath": audio, "text": "has never been surpassed."}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    result, _ = run(tmp_path / "m.jsonl", tmp_path / "out", RecogniserOptions("pocketsphinx"))
    words = result["generated"]["words"]
    assert words["error_rates"]["words"]["hits"] >= 3 and words["error_rates"]["words"]["corpus"] <= 0.5
    assert words["words_per_minute"] == pytest.approx(words["words"] / (1.783 / 60), rel=0.01)
    assert result["settings"]["recogniser"] == "pocketsphinx"
