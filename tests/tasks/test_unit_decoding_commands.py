"""Unit language models through fairseq-generate and fairseq-interactive, and what fairseq-eval-lm counts."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import GenerationConfig
from fairseq_cli.eval_lm import eval_lm
from omegaconf import open_dict

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.generator import DialogueGenerator
from speechdlm_ext.generation.options import DecodingOptions
from tests.helpers.unit_checkpoints import utterances, write_corpus, write_unit_checkpoint
from tests.helpers.unit_models import toy_unit_lm, toy_unit_lstm

pytestmark = pytest.mark.commands
LENGTHS = [30, 7, 12, 1, 22]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unit_decoding")
    write_corpus(folder, utterances(LENGTHS))
    transformer = toy_unit_lm(durations=True)
    with torch.no_grad():
        transformer.decoder.output_duration.bias.fill_(3.0)
    write_unit_checkpoint(folder / "transformer.pt", transformer)
    write_unit_checkpoint(folder / "lstm.pt", toy_unit_lstm())
    return folder


def command(toy: Path, checkout: Path, name: str, model: str, *options: Any) -> list[Any]:
    task = ["--task", "unit_language_modeling", "--user-dir", checkout / "speechdlm_ext", "--cpu"]
    return [name, toy, *task, "--path", toy / f"{model}.pt", *options]


def test_generate_continues_the_beginnings_of_utterances(toy: Path, checkout: Path, run_loaded: Any) -> None:
    options = shlex.split(
        "--gen-subset valid --prompt-units 10 --max-len-b 40 --min-len 40 --sampling --beam 2 --nbest 2"
    )
    done = run_loaded(command(toy, checkout, "fairseq-generate", "lstm", *options))
    lines: dict[str, list[list[str]]] = {}
    for line in done.stdout.splitlines():
        if re.match(r"[STHP]-\d+\t", line):
            name, *rest = line.split("\t")
            lines.setdefault(name, []).append(rest)
    for number, units in enumerate(utterances(LENGTHS)):
        prompt = units[:10]
        assert lines[f"S-{number}"] == [[" ".join(map(str, prompt))]]
        assert lines[f"T-{number}"] == [[" ".join(map(str, units))]]
        for (score, found), (each,) in zip(lines[f"H-{number}"], lines[f"P-{number}"], strict=True):
            words = [int(word) for word in found.split()]
            assert len(words) == 40 and words[: len(prompt)] == prompt
            values = [float(value) for value in each.split()]
            assert len(values) == 41 and sum(values) / 41 == pytest.approx(float(score), abs=1e-3)
        assert lines[f"H-{number}"][0][1] != lines[f"H-{number}"][1][1]


def test_interactive_serves_lines_explains_bad_ones_and_stops_by_seconds(
    toy: Path, checkout: Path, run_loaded: Any
) -> None:
    options = ["--max-seconds", "0.5", "--durations", "--frame-rate", "40", "--beam", "2", "--window", "3"]
    lines = "1 2 3\n99 1\n\n4 5 6 7\n"
    done = run_loaded(command(toy, checkout, "fairseq-interactive", "transformer", *options), input=lines)
    found = {line.split("\t")[0]: line.split("\t")[-1] for line in done.stdout.splitlines() if line.startswith("H-")}
    assert list(found) == ["H-0", "H-3"]
    (explained,) = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert "99 is no unit" in explained
    model = toy_unit_lm(durations=True).eval()
    for prompt, answer in (("1 2 3", found["H-0"]), ("4 5 6 7", found["H-3"])):
        assert answer.startswith(prompt)
        rows = torch.tensor([0, *(int(unit) + 1 for unit in answer.split())])
        with torch.no_grad():
            cache = model.decoder.make_cache(3).extend(len(rows))
            (prediction,), _ = model.decoder(rows.view(1, -1, 1), cache=cache)
            predicted = prediction.durations[0, 1:, 0] + 3.0 - model.decoder.output_duration.bias
        frames = predicted.round().clamp(min=1).cumsum(0).tolist()
        assert frames[-2] < 20 or len(answer) == len(prompt)  # half a second is 20 frames
        assert frames[-1] >= 20 or len(frames) < 20  # or EOS came first
    with torch.no_grad():
        model.decoder.output_duration.bias.fill_(3.0)
    expected = {}
    for window in (3, None):
        options = DecodingOptions(beam=2, stop_at_end=True, max_len_b=20, max_frames=20, window=window)
        core = DialogueGenerator([model], model.decoder.dictionary, options)
        best = core.generate([model.decoder.dictionary.encode_line("4 5 6 7").unsqueeze(-1)], [0])[0][0]
        expected[window] = model.decoder.dictionary.string(best.units[:, 0])
    assert found["H-3"] == expected[3] != expected[None]


def test_seconds_without_a_length_of_units_are_refused(toy: Path) -> None:
    options = {"data": str(toy), "max_seconds": 1.0}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(toy / "lstm.pt")], options)
    with open_dict(task.cfg):
        task.cfg.max_seconds = 1.0
    with pytest.raises(InputError, match="--max-seconds 1: .* give the --frame-rate"):
        task.build_generator(models, GenerationConfig())


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_eval_lm_agrees_with_the_criterion_and_with_one_utterance_at_a_time(toy: Path, name: str) -> None:
    path = str(toy / f"{name}.pt")
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], {"data": str(toy)})
    task.cfg.durations = False  # there are no binarized durations here
    criterion = task.build_criterion(cfg.criterion).eval()
    model.eval()
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    found = eval_lm([model], task.source_dictionary, task.eval_lm_dataloader(dataset, max_tokens=40))
    total, count = 0.0, 0
    with torch.no_grad():
        for units in utterances(LENGTHS):
            rows = torch.tensor([0, *(unit + 1 for unit in units), 0])
            lprobs = model(rows[None, :-1])[0][0].log_softmax(-1)
            total -= float(lprobs.gather(-1, rows[1:].unsqueeze(-1)).sum())
            count += len(rows) - 1
        assert float(found["loss"]) == pytest.approx(total / count / math.log(2), rel=1e-5)
        if name == "lstm":
            sample = dataset.collater([dataset[i] for i in range(len(dataset))])
            _, size, logs = criterion(model, sample)
            assert float(logs["nll_loss"]) / size / math.log(2) == pytest.approx(float(found["loss"]), abs=1e-5)
