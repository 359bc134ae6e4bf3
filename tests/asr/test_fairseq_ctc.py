"""CTC checkpoints of fairseq: the same scores as fairseq's own models, the text by hand, and invalid files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fairseq.data import Dictionary

from speechdlm_ext.asr import build_recogniser
from speechdlm_ext.asr.ctc import FairseqCTC
from speechdlm_ext.errors import InputError
from tests.helpers.ctc_checkpoints import LETTERS, finetuned, letters, save
from tests.helpers.speech_checkpoints import BASE, LARGE

WAVE = np.sin(np.arange(9000) ** 1.3 / 40).astype(np.float32) * 0.3 + 0.05


def scores_of(recogniser: FairseqCTC, wave: np.ndarray) -> torch.Tensor:
    return recogniser.emissions(torch.from_numpy(wave)[None], [len(wave)])[0]


@pytest.mark.parametrize(
    ("kind", "inner", "normalize", "form"),
    (
        ("wav2vec_ctc", BASE, False, "args"),
        ("wav2vec_ctc", LARGE, True, "cfg"),
        ("hubert_ctc", BASE, False, "omegaconf"),
        ("hubert_ctc", LARGE, True, "cfg"),
    ),
)
def test_scores_are_those_of_fairseq(
    kind: str, inner: dict[str, Any], normalize: bool, form: str, tmp_path: Path
) -> None:
    dictionary = Dictionary.load(str(letters(tmp_path)))
    unknown = {"label_rate", "untie_final_proj"} if kind == "wav2vec_ctc" else set()
    small = {name: value for name, value in inner.items() if name not in unknown}
    model, w2v_args = finetuned(kind, dictionary, small, normalize)
    path = save(tmp_path / "lr=3.pt", kind, model, w2v_args, normalize, form)
    recogniser = build_recogniser(f"fairseq:{path}")
    assert isinstance(recogniser, FairseqCTC) and recogniser.files[0] == path
    source = torch.from_numpy(WAVE)[None]
    source = F.layer_norm(source, source.shape) if normalize else source
    with torch.no_grad():
        output = model(source=source, padding_mask=torch.zeros(source.shape, dtype=torch.bool))
        expected = model.get_logits(output)[:, 0]
    found = scores_of(recogniser, WAVE)
    assert found.shape == (27, 11) and float(expected.std()) > 0.05
    assert torch.allclose(found, expected, atol=1e-4)
    # A row alone is the row in a batch.
    rows = recogniser.emissions(torch.nn.functional.pad(torch.from_numpy(WAVE), (0, 4000)).expand(2, -1), [9000, 13000])
    assert rows[0].shape == found.shape and torch.allclose(rows[0], found, atol=1e-4) and len(rows[1]) == 40
    # The text: by fairseq's own string(), whose symbols stand apart, from the frames taken one by one.
    best = expected.argmax(-1).tolist()
    kept = [b for number, b in enumerate(best) if b != dictionary.bos() and (not number or best[number - 1] != b)]
    text = dictionary.string(torch.tensor(kept)).replace("<pad>", "").replace(" ", "").replace("|", " ")
    assert recogniser.recognise(WAVE).text == " ".join(text.split())
    assert recogniser.recognise(WAVE[:100]).text == ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ctc")
    small = {name: value for name, value in BASE.items() if name not in ("label_rate", "untie_final_proj")}
    model, w2v_args = finetuned("wav2vec_ctc", Dictionary.load(str(letters(folder))), small, False)
    return folder, model, w2v_args


def test_text_by_hand_and_blank_weight(made: tuple[Path, Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model, w2v_args = made
    path = save(folder / "model.pt", "wav2vec_ctc", model, w2v_args, False, "cfg")
    plain = FairseqCTC(path)
    frames = [5, 5, 0, 5, 6, 4, 1, 4, 7, 2, 7, 0, 0]  # E E, blank, E, T, |, padding, |, A, end, A
    monkeypatch.setattr(plain, "emissions", lambda waves, lengths: [F.one_hot(torch.tensor(frames), 11).float()])
    assert plain.recognise(WAVE).text == "EET AA"
    other = folder / "other.txt"
    os.replace(folder / "dict.ltr.txt", other)
    with pytest.raises(InputError, match=r"dict.ltr.txt: the letters of .*model.pt are missing; pass --asr fairseq:"):
        build_recogniser(f"fairseq:{path}")
    given = build_recogniser(f"fairseq:{path}={other}")
    letters(folder)
    heavy = FairseqCTC(save(folder / "heavy.pt", "wav2vec_ctc", model, w2v_args, False, "cfg", blank_weight=50.0))
    assert isinstance(given, FairseqCTC)
    raised = scores_of(heavy, WAVE) - scores_of(given, WAVE)
    assert torch.allclose(raised[:, 0], torch.tensor(50.0)) and float(raised[:, 1:].abs().max()) == 0
    assert heavy.recognise(WAVE).text == ""


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hostile",)


def test_files_that_will_not_do(made: tuple[Path, Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model, w2v_args = made
    monkeypatch.chdir(folder)
    good = torch.load(save(folder / "good.pt", "wav2vec_ctc", model, w2v_args, False, "cfg"), weights_only=False)

    def refused(symbols: list[str] = LETTERS, **changes: Any) -> str:
        letters(folder, symbols)
        torch.save({**good, **changes}, folder / "bad.pt")
        with pytest.raises(InputError) as error:
            build_recogniser("fairseq:bad.pt")
        assert "\n" not in str(error.value)
        return str(error.value)

    def model_of(**changes: Any) -> dict[str, Any]:
        return {**good["cfg"], "model": {**good["cfg"]["model"], **changes}}

    def without(name: str) -> dict[str, Any]:
        return {key: value for key, value in good["model"].items() if not key.endswith(name)}

    assert "has 11 labels and its dictionary 10, fairseq's own 4 included" in refused(LETTERS[:-1])
    assert "no | between words" in refused([*LETTERS[1:], "X"])
    assert "not a dictionary of fairseq" in refused(["one\ntwo"])
    assert "expected a checkpoint of wav2vec_ctc or hubert_ctc" in refused(cfg=model_of(_name="wav2vec_seq2seq"))
    assert "w2v_args" in refused(cfg=model_of(w2v_args=None))
    task = {**good["cfg"]["task"], "sample_rate": 8000}
    assert "is for 8000 Hz" in refused(cfg={**good["cfg"], "task": task})
    assert "no weights w2v_encoder.w2v_model.encoder.layers.1.fc1.weight" in refused(
        model=without("layers.1.fc1.weight")
    )
    assert "no w2v_encoder.proj.weight and bias" in refused(model=without("proj.bias"))
    assert "decoder.extra" in refused(model={**good["model"], "decoder.extra": torch.zeros(1)})
    extra = {"w2v_encoder.w2v_model.encoder.extra": torch.zeros(1)}
    assert "encoder.extra, which this model has not" in refused(model={**good["model"], **extra})
    assert "can run code" in refused(best=Hostile()) and not Path("hostile").exists()
    letters(folder)
    with pytest.raises(InputError, match="none.pt: no such checkpoint"):
        build_recogniser("fairseq:none.pt")
