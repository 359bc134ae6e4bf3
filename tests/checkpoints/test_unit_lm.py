"""Published unit language models: read as they are, and written back bit by bit."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fairseq import checkpoint_utils

from speechdlm_ext.checkpoints import dpslm
from speechdlm_ext.checkpoints.dpslm import DIGESTS, UNIT_LMS, locate_unit_lm
from speechdlm_ext.checkpoints.formats import read_model, write_model
from speechdlm_ext.checkpoints.model_state import build_model
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.published import Published
from tests.helpers.binarized import write_corpus
from tests.helpers.unit_checkpoints import amela_folder, amela_likelihood, dpslm_file
from tests.helpers.unit_models import plain_logits, toy_unit_lm, toy_unit_lstm


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_dpslms_form_is_read_and_written_back(tmp_path: Path) -> None:
    published = dpslm_file(tmp_path / "published.pt")
    state = read_model(tmp_path / "published.pt")
    model = build_model(state, "published.pt")
    rows = torch.randint(0, 21, (15,))
    with torch.no_grad():
        found = model(rows[None])[0][0]
    expected = plain_logits(published["model_state_dict"], rows.tolist(), 4, 2)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    assert all(layer.dropout == 0.15 for layer in model.decoder.layers)
    write_model(state, tmp_path / "fairseq.pt", "fairseq", "published.pt")
    write_model(read_model(tmp_path / "fairseq.pt"), tmp_path / "again.pt", "dpslm", "fairseq.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert again["model_args"] == published["model_args"]
    assert same(again["model_state_dict"], published["model_state_dict"])
    with pytest.raises(InputError, match=r"again\.pt exists"):
        write_model(state, tmp_path / "again.pt", "dpslm", "published.pt")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_options_in_a_namespace_and_weights_of_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    """Such weights are computed with in fp32, and none of their bits is lost on the way back."""
    published = dpslm_file(tmp_path / "whole.pt")
    halves = {name: tensor.to(dtype) for name, tensor in published["model_state_dict"].items()}
    torch.save(
        {"model_args": Namespace(**published["model_args"]), "model_state_dict": halves}, tmp_path / "published.pt"
    )
    state = read_model(tmp_path / "published.pt")
    model = build_model(state, "published.pt")
    rows = torch.randint(0, 21, (15,))
    with torch.no_grad():
        found = model(rows[None])[0][0]
    expected = plain_logits(halves, rows.tolist(), 4, 2)
    assert found.dtype == torch.float32 and float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    write_model(state, tmp_path / "again.pt", "dpslm", "published.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert again["model_args"] == published["model_args"] and same(again["model_state_dict"], halves)


@pytest.mark.parametrize("name", ["published.pt", "fairseq.pt"])
def test_fairseqs_own_loader_reads_both_forms(tmp_path: Path, name: str) -> None:
    """The codebook is the checkpoint's, though the data's dictionary knows but six of its units."""
    published = dpslm_file(tmp_path / "published.pt")
    write_model(read_model(tmp_path / "published.pt"), tmp_path / "fairseq.pt", "fairseq", "published.pt")
    data = write_corpus(tmp_path / "data", [[3, 0, 1], [5]])
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(tmp_path / name)], arg_overrides={"data": str(data)}
    )
    weights = {f"decoder.{name}": tensor for name, tensor in published["model_state_dict"].items()}
    assert same(model.state_dict(), weights) and cfg.task.data == str(data)
    task.load_dataset("train")
    assert task.dictionary.units == 20 and task.dataset("train")[0]["target"].tolist() == [4, 1, 2, 0]


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_amelas_form_is_read_and_written_back(tmp_path: Path, padding: bool, safe: bool) -> None:
    published = amela_folder(tmp_path / "published", padding=padding, safe=safe)
    state = read_model(tmp_path / "published")
    model = build_model(state, "published")
    units = torch.randint(0, 30, (12,)).tolist()
    source = torch.tensor([[0, *(unit + 1 for unit in units[:-1])]])
    with torch.no_grad():
        lprobs = model.get_normalized_probs(model(source), True)[0]
    found = sum(float(lprobs[t, unit + 1]) for t, unit in enumerate(units))
    assert found == pytest.approx(amela_likelihood(published, units, 30), abs=1e-4)
    assert state.options["dropout"] == 0.2 and state.options["decoder_layers"] == 3
    write_model(state, tmp_path / "fairseq.pt", "fairseq", "published")
    write_model(read_model(tmp_path / "fairseq.pt"), tmp_path / "again", "amela", "fairseq.pt")
    again = safetensors.torch.load_file(tmp_path / "again" / "model.safetensors")
    kept = {
        name: tensor[:31] if name in ("embedding.weight", "output.weight", "output.bias") else tensor
        for name, tensor in published.items()
    }
    assert same(again, kept)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (config["vocab_size"], config["sos_token_id"], config["hidden_size"]) == (31, 30, 10)
    assert amela_likelihood(again, units, 30) == pytest.approx(found, abs=1e-4)


def test_names_are_those_of_the_published_files(data: Path) -> None:
    listed = (data / "keys" / "checkpoint_urls.txt").read_text().split()
    expected = {url for url in listed if "/mistral-ulm-" in url}
    assert {entry.url for entry in UNIT_LMS.values()} == expected and len(expected) == 25
    for name, (url, digest) in UNIT_LMS.items():
        assert name in url and url.endswith(f"-{digest}.pt")
    with pytest.raises(InputError) as refused:
        locate_unit_lm("mistral-ulm-k-500-lmbda-700")
    assert all(f"K={k}: λ=" in str(refused.value) for k in (100, 200, 500, 1000))
    assert sum(str(refused.value).count(str(penalty)) for penalty in {p for _, p in DIGESTS}) >= 24
    with pytest.raises(InputError, match="no such file, nor the name"):
        locate_unit_lm("mistral-ulm")


def test_a_named_model_is_fetched_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dpslm_file(tmp_path / "there.pt")
    digest = hashlib.sha256((tmp_path / "there.pt").read_bytes()).hexdigest()
    monkeypatch.setenv("SPEECHDLM_CACHE", str(tmp_path / "cache"))
    url = (tmp_path / "there.pt").as_uri()
    name = "mistral-ulm-k-500-lmbda-600"
    monkeypatch.setitem(dpslm.UNIT_LMS, name, Published(url, "00000000"))
    with pytest.raises(InputError, match='expected "00000000", got'):
        locate_unit_lm(name)
    monkeypatch.setitem(dpslm.UNIT_LMS, name, Published(url, digest[:8]))
    path = locate_unit_lm(name)
    assert read_model(path).units == 20 and str(path).startswith(str(tmp_path / "cache"))
    (tmp_path / "there.pt").unlink()
    assert locate_unit_lm(name) == path


def test_files_that_will_not_do_are_explained(tmp_path: Path) -> None:
    published = dpslm_file(tmp_path / "a.pt")

    def broken(message: str, **changes: Any) -> None:
        state = {"model_args": dict(published["model_args"]), "model_state_dict": dict(published["model_state_dict"])}
        for name, value in changes.items():
            part = state["model_args"] if name in state["model_args"] else state["model_state_dict"]
            part.pop(name.replace("__", ".")) if value is None else part.update({name.replace("__", "."): value})
        torch.save(state, tmp_path / "b.pt")
        with pytest.raises(InputError, match=message):
            build_model(read_model(tmp_path / "b.pt"), "b.pt")

    broken("21 rows of tok_embeddings.weight, 501 are expected", vocab_size=501)
    broken("model_args has no n_layers", n_layers=None)
    broken(r"no weights decoder\.layers\.2\.", n_layers=3)
    broken(r"no weights decoder\.norm\.weight", norm__weight=None)
    broken("has weights decoder.other", other=torch.zeros(1))
    broken("an acoustic model", output__bias=torch.zeros(21))
    broken("model_args.dim is '16', a whole number is expected", dim="16")
    broken("model_state_dict is not made of tensors", norm__weight=3)
    for args in (None, [1, 2]):
        torch.save({**published, "model_args": args}, tmp_path / "b.pt")
        with pytest.raises(InputError, match="model_args has no dim"):
            read_model(tmp_path / "b.pt")
    amela_folder(tmp_path / "lstm")
    (tmp_path / "lstm" / "config.json").write_text('{"model_type": "lstm", "sos_token_id": 40}')
    with pytest.raises(InputError, match="31 rows, SOS in row 40"):
        read_model(tmp_path / "lstm")
    (tmp_path / "lstm" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match="model_type is gpt2"):
        read_model(tmp_path / "lstm")
    (tmp_path / "lstm" / "config.json").unlink()
    with pytest.raises(InputError, match="not all there"):
        read_model(tmp_path / "lstm")
    torch.save({"something": 1}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"c\.pt: neither a checkpoint of fairseq nor"):
        read_model(tmp_path / "c.pt")
    (tmp_path / "d.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-2000])
    with pytest.raises(Exception, match=r"d\.pt: is not a whole checkpoint"):
        read_model(tmp_path / "d.pt")


def test_forms_without_a_place_for_it_are_refused(tmp_path: Path) -> None:
    from speechdlm_ext.checkpoints.amela import to_amela
    from speechdlm_ext.checkpoints.dpslm import to_dpslm
    from speechdlm_ext.checkpoints.model_state import ModelState

    for model, kind, write in ((toy_unit_lm, "unit_lm", to_dpslm), (toy_unit_lstm, "unit_lstm", to_amela)):
        timed = model(durations=True)
        options = vars(timed.decoder.args)
        with pytest.raises(InputError, match="predicts durations"):
            write(ModelState(kind, 20, options, timed.state_dict()), "x.pt")
        other = "unit_lstm" if kind == "unit_lm" else "unit_lm"
        with pytest.raises(InputError, match=f"x.pt is a {other}"):
            write(ModelState(other, 20, options, {}), "x.pt")
