"""Units to sound by acoustic model and codec: rows, durations, voices, limits, presets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.data.unit_codec_dictionary import SPECIAL, UnitCodecDictionary
from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.unit_to_codec import CodecOptions
from speechdlm_ext.hub import UnitToCodec, WavTokenizer
from speechdlm_ext.hub.codec_vocoder import CodecVocoder
from speechdlm_ext.hub.voices import Voices
from speechdlm_ext.io.audio import audio_info, read_audio, write_audio
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.encoding import encode_recordings, runs
from speechdlm_ext.units.files import write_unit_file
from speechdlm_ext.units.pipeline import UnitPipeline
from speechdlm_ext.vocoders.base import build_vocoder
from speechdlm_ext.vocoders.resynthesize import resynthesize
from speechdlm_ext.vocoders.synthesize import synthesize_rows
from tests.helpers.dpslm import acoustic_model, write_codec
from tests.helpers.unit_checkpoints import dpslm_file

UNITS = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    acoustic_model(UNITS).save(folder / "acoustic.pt")
    write_codec(folder / "codec.ckpt")
    return folder


@pytest.fixture(scope="module")
def parts(models: Path) -> tuple[UnitToCodec, WavTokenizer]:
    return UnitToCodec.from_pretrained(models / "acoustic.pt"), WavTokenizer.from_pretrained(models / "codec.ckpt")


@pytest.fixture(scope="module")
def pipeline() -> UnitPipeline:
    """Log-mel units at 50 Hz."""
    encoder = LogMelEncoder()
    assert encoder.frame_rate == 50
    torch.manual_seed(1)
    codebook = Codebook(torch.randn(UNITS, encoder.dim) * 3, encoder.name, encoder.options, encoder.frame_rate)
    return UnitPipeline(codebook, encoder)


@pytest.fixture(scope="module")
def rows(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A manifest of three recordings of a second or less."""
    folder, found = tmp_path_factory.mktemp("recordings"), []
    wave, _ = read_audio(sorted((data / "speech" / "ljspeech").glob("*.flac"))[0], 16000)
    for name, begin, end in (("a", 0, 12000), ("b", 12000, 20000), ("c", 20000, 28000)):
        write_audio(folder / f"{name}.wav", wave[:, begin:end], 16000)
        found.append({"id": name, "audio_filepath": str(folder / f"{name}.wav")})
    return found


def sound(path: Path) -> torch.Tensor:
    wave, rate = read_audio(path)
    assert rate == 24000
    return wave


def test_rows_become_the_sound_of_their_codec_tokens(parts: Any, tmp_path: Path) -> None:
    units = [["3", "7", "2"], ["5", "1", "5", "9"]]
    rows = [{"audio": f"r{i}", "unitA": " ".join(row), "deduplicated": True} for i, row in enumerate(units)]
    said: list[str] = []
    synthesize_rows(rows, CodecVocoder(*parts, CodecOptions(10**6), seed=4), tmp_path, say=said.append)
    codes, _ = parts[0].generate(units, 10**6, seed=4)
    for i, row in enumerate(codes):
        wanted, _ = parts[1].decode(row.view(1, 1, -1))
        assert torch.allclose(sound(tmp_path / f"r{i}.wav"), wanted.clamp(-1, 1), atol=1e-3)
    assert not any("ended early" in line for line in said)


def test_an_early_end_is_told_for_each_row_and_durations_are_kept(parts: Any, tmp_path: Path) -> None:
    rows = [
        {"audio": "short", "unitA": "3", "deduplicated": True},
        {"audio": "long", "unitA": "3 7 2 9 4 1", "deduplicated": True},
        {"audio": "timed", "unitA": "3 7 2", "unitA.durations": "20 1 13", "deduplicated": True},
        {"audio": "talk", "unitA": "3 3 3 3", "unitB": "5 5 6 6", "deduplicated": False},
    ]
    said: list[str] = []
    synthesize_rows(rows, CodecVocoder(*parts, CodecOptions(30), batch_size=3), tmp_path, say=said.append)
    early = [line for line in said if "ended early" in line]
    assert [line.partition(", after")[0] for line in early] == [
        f"row {name}: ended early, at --max-tokens 30" for name in ("long", "timed")
    ]
    assert all(re.search(r"after [1-6] of [36] units$", line) for line in early)
    assert audio_info(tmp_path / "timed.wav").frames == 34 * 480
    assert audio_info(tmp_path / "talk.wav").frames == 4 * 480 and audio_info(tmp_path / "talk.wav").channels == 2


@pytest.mark.commands
def test_shards_and_samples_are_what_one_run_makes(
    parts: Any, pipeline: UnitPipeline, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    def run(output: Path, shard: Shard | None, batch: int) -> None:
        vocoder = CodecVocoder(*parts, CodecOptions(10**6, 2), batch_size=batch)
        resynthesize(rows, "d", pipeline, vocoder, output, shard, False, True, samples=2, say=lambda line: None)

    run(tmp_path / "one", None, 8)
    for index in range(2):
        run(tmp_path / "two", Shard(index, 2), 1)
    made = {path.name: path.read_bytes() for path in (tmp_path / "one" / "d").glob("*.wav")}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "two" / "d").glob("*.wav")}
    assert sorted(made) == [f"{name}-s{sample}.wav" for name in "abc" for sample in (1, 2)]
    assert len(set(made.values())) == 6
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "one" / "d").glob("*.wav")}
    (tmp_path / "one" / "d" / "b-s1.wav").unlink()
    run(tmp_path / "one", None, 8)
    for path, stamp in stamps.items():
        assert path.read_bytes() == made[path.name]
        assert (path.stat().st_mtime_ns == stamp) == (not path.name.startswith("b-"))


def test_kept_durations_keep_the_length(
    parts: Any, pipeline: UnitPipeline, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    resynthesize(rows, "d", pipeline, CodecVocoder(*parts, CodecOptions(10**6)), tmp_path, say=lambda line: None)
    assert [audio_info(tmp_path / "d" / f"{name}.wav").frames for name in "abc"] == [18000, 12000, 12000]


def test_a_continuation_goes_on_from_the_recordings_own_tokens(
    parts: Any, pipeline: UnitPipeline, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wave, _ = read_audio(rows[0]["audio_filepath"], 16000)
    frames = pipeline.codebook.quantize(pipeline.encoder.encode(wave[0], 16000))
    units, lengths = (part.tolist() for part in runs(frames))
    kept = len(units) // 2
    line = {"audio": "a-s2", "unitA": " ".join(map(str, [*units[:kept], *more(units[kept - 1])])), "prompt_units": kept,
            "deduplicated": True}  # fmt: skip
    vocoder = CodecVocoder(*parts, CodecOptions(10**6, temperature=0.0))
    vocoder.voices = Voices(manifest, pipeline, vocoder.codec)
    synthesize_rows([line], vocoder, tmp_path / "out", say=lambda text: None)
    heard = parts[1].encode(wave, 16000)[0, 0, : -(-sum(lengths[:kept]) * 40 // 50)]
    spoken = frames[: sum(lengths[:kept])].tolist()
    (codes,), _ = parts[0].generate([more(units[kept - 1])], 10**6, temperature=0.0, voice=(spoken, heard.tolist()))
    wanted, _ = parts[1].decode(torch.cat([heard, codes]).view(1, 1, -1))
    assert torch.allclose(sound(tmp_path / "out" / "a-s2.wav"), wanted.clamp(-1, 1), atol=1e-3)
    with pytest.raises(InputError, match="row a: its first 2 units are not those of its recording"):
        wrong = {**line, "audio": "a", "unitA": "1 2 1 2", "prompt_units": 2}
        synthesize_rows([wrong], vocoder, tmp_path / "bad", say=lambda text: None)
    with pytest.raises(InputError, match="row z: no recording of this id among those of --voice"):
        synthesize_rows([{**line, "audio": "z"}], vocoder, tmp_path / "bad", say=lambda text: None)


def more(last: int) -> list[int]:
    """Units that follow ``last``."""
    return [(last + 1) % UNITS, (last + 5) % UNITS]


def test_models_that_do_not_belong_together_are_refused(parts: Any, models: Path, tmp_path: Path) -> None:
    acoustic, codec = parts
    with pytest.raises(InputError, match="makes 40 codec tokens per second, the codec has 200"):
        other = WavTokenizer.from_pretrained(write_codec(tmp_path / "fast.ckpt", (5, 4, 3, 2)))
        CodecVocoder(acoustic, other, CodecOptions())
    with pytest.raises(InputError, match="knows 32 codec tokens, the codec 64"):
        CodecVocoder(acoustic_model(UNITS, codes=32), codec, CodecOptions())
    phones = acoustic_model(2)
    names = {"u0": "AA", "u1": "ZH"}
    ids = {names.get(token, token): i for token, i in phones.dictionary.token_to_id.items()}
    phones.dictionary = phones.model.decoder.dictionary = UnitCodecDictionary(ids, 64)
    assert {*SPECIAL, "AA", "ZH"} < set(phones.dictionary.token_to_id)
    phones.save(tmp_path / "phones.pt")
    loaded = UnitToCodec.from_pretrained(tmp_path / "phones.pt")
    assert loaded.generate([["AA", "ZH"]], max_tokens=20)[1] in ([True], [False])
    for attempt in (lambda: CodecVocoder(loaded, codec, CodecOptions()), lambda: loaded.generate([["u5"]])):
        with pytest.raises(InputError, match=r"the model is of phones \(AA, ZH, …\), not of units"):
            attempt()
    with pytest.raises(InputError, match="--samples 2: 1 is expected, or more of a vocoder that samples"):
        resynthesize([], "d", None, None, tmp_path, samples=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--vocoder wavtokenizer needs an acoustic model"):
        CodecVocoder.build(None)
    files = {"acoustic": str(models / "acoustic.pt"), "codec_checkpoint": str(models / "codec.ckpt")}
    with pytest.raises(InputError, match="the codebook has 13 units, the vocoder 12"):
        build_vocoder("wavtokenizer", Codebook(torch.randn(13, 4), "logmel", {}, 50.0), "cpu", **files)
    with pytest.raises(InputError, match="the codebook's units come at 100 Hz, the vocoder takes 50 Hz"):
        build_vocoder("wavtokenizer", Codebook(torch.randn(12, 4), "logmel", {}, 100.0), "cpu", **files)
    vocoder = CodecVocoder(acoustic, codec, CodecOptions())
    with pytest.raises(InputError, match="row x has no units"):
        synthesize_rows([{"audio": "x", "unitA": "", "deduplicated": True}], vocoder, tmp_path / "none")
    with pytest.raises(InputError, match="row x, unitA: 2 units, but 1 durations"):
        row = {"audio": "x", "unitA": "1 2", "unitA.durations": "3", "deduplicated": True}
        synthesize_rows([row], vocoder, tmp_path / "none")
    weights = torch.load(models / "acoustic.pt", weights_only=True)
    weights["model_state"]["output.bias"][3] = torch.nan
    torch.save(weights, tmp_path / "nan.pt")
    with pytest.raises(InputError, match=r"output.bias have values that are not numbers"):
        CodecVocoder.build(None, acoustic=str(tmp_path / "nan.pt"), codec_checkpoint=str(models / "codec.ckpt"))


def test_the_commands_with_files_at_hand(
    models: Path, pipeline: UnitPipeline, rows: list[dict[str, Any]], tmp_path: Path, checkout: Path, run_loaded: Any
) -> None:
    pipeline.codebook.save(tmp_path / "codebook.safetensors")
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    chain = ["--preset", "dpslm", "--k", str(UNITS), "--lmbda", "20", "--codebook", tmp_path / "codebook.safetensors",
             "--acoustic", models / "acoustic.pt", "--codec-checkpoint", models / "codec.ckpt"]  # fmt: skip
    command = ["python", checkout / "scripts/resynthesize.py", tmp_path / "m.jsonl", "d", *chain, "--output", tmp_path]
    done = run_loaded([*command, "--voice", rows[1]["audio_filepath"], "--max-tokens", "15", "--samples", "2"])
    assert "2 wav files" in done.stdout
    for sample in (1, 2):
        assert f"row a-s{sample}: ended early, at --max-tokens 15" in done.stdout + done.stderr
    write_unit_file(tmp_path / "u.jsonl", [{"audio": "x", "unitA": "1 2 13", "deduplicated": True}])
    command = ["python", checkout / "scripts/synthesize.py", tmp_path / "u.jsonl", tmp_path / "s", *chain]
    done = run_loaded(command, check=False)
    assert done.returncode == 2
    assert "row x, unitA: unit 13 is not among those of the vocoder, which has 0 to 11" in done.stderr


def test_continuations_are_piped_to_sound_and_a_page(
    models: Path, pipeline: UnitPipeline, rows: list[dict[str, Any]], tmp_path: Path, checkout: Path, run_loaded: Any
) -> None:
    pipeline.codebook.save(tmp_path / "codebook.safetensors")
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    dpslm_file(tmp_path / "lm.pt", UNITS)
    encode_recordings(rows[:2], pipeline.codebook, tmp_path / "prompts.jsonl", deduplicate=True, say=lambda line: None)
    sample = ["python", checkout / "scripts/sample_units.py", tmp_path / "prompts.jsonl", "-", "--checkpoint",
              tmp_path / "lm.pt", "--prompt-units", "3", "--max-len-b", "6", "--samples", "2"]  # fmt: skip
    units = run_loaded(sample).stdout
    assert [json.loads(line)["audio"] for line in units.splitlines()] == ["a-s1", "a-s2", "b-s1", "b-s2"]
    speak = ["python", checkout / "scripts/synthesize.py", "-", tmp_path / "sound", "--vocoder", "wavtokenizer",
             "--acoustic", models / "acoustic.pt", "--codec-checkpoint", models / "codec.ckpt", "--voice",
             tmp_path / "m.jsonl", "--codebook", tmp_path / "codebook.safetensors", "--html",
             tmp_path / "listen.html"]  # fmt: skip
    done = run_loaded(speak, input=units)
    assert "4 wav files" in done.stdout and "4 rows are deduplicated" not in done.stderr
    page = (tmp_path / "listen.html").read_text(encoding="utf-8")
    assert page.count("data:audio/") == 8 and "a-s2" in page and "b.wav" in page
