"""Likelihood in an evaluation: the figures of the model's own scores, summed over dialogues and windows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.eval_set import PromptOptions
from speechdlm_ext.evaluation.evaluation import EvaluationOptions, evaluate
from speechdlm_ext.hub import load_speech_dlm
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from tests.helpers.dialogue_checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model of 20 units, and unit files of two channels."""
    folder = write_checkpoint(tmp_path_factory.mktemp("toy"))
    for seed, name in enumerate(("made", "real")):
        rng = np.random.default_rng(seed)
        rows = []
        for number in range(3):
            row: dict[str, str] = {"audio": f"d{number}"}
            for channel in ("unitA", "unitB"):
                units = np.repeat(rng.integers(0, 20, 400), rng.integers(1, 6, 400))[: 400 + 50 * number]
                row[channel] = " ".join(map(str, units))
            rows.append(row)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.commands
def test_against_the_models_scores(folder: Path, tmp_path: Path) -> None:
    options = EvaluationOptions(
        folder / "made.jsonl", folder / "real.jsonl", PromptOptions(prompt_seconds=2, continuation_seconds=5),
        silence_units=[0], checkpoint=folder / "model.pt", data=folder, bootstrap=BootstrapOptions(20),
    )  # fmt: skip
    result = evaluate(options, tmp_path).result
    model = load_speech_dlm(folder, "model.pt", folder)
    for side, first, last in (("made", 100, 350), ("real", 0, None)):
        rows = [json.loads(line) for line in (folder / f"{side}.jsonl").read_text().splitlines()]
        nats, edges, errors = [], [], []
        for row in rows:
            score = model.score({channel: row[channel] for channel in ("unitA", "unitB")})
            part = slice(first, last)  # the model is causal: what follows a window does not change it
            nats.append(score.log_probabilities[part].double().numpy())
            edges.append(score.edges[part].numpy())
            errors.append(score.duration_errors[part].double().numpy())
        found = result["generated" if side == "made" else "reference"]["likelihood"]
        whole = [np.concatenate(parts) for parts in (nats, edges, errors)]
        for channel, figures in ((0, found["A"]), (1, found["B"]), (slice(None), found["all"])):
            logs, starts = whole[0][:, channel], whole[1][:, channel]
            assert figures["edges"] == starts.sum()
            assert figures["edge_bits"] == pytest.approx(-logs[starts].mean() / math.log(2), rel=1e-4)
            assert figures["unit_bits"] == pytest.approx(-logs.mean() / math.log(2), rel=1e-4)
            assert figures["duration_error"] == pytest.approx(np.nanmean(whole[2][:, channel]), rel=0.02)
    apart = result["distance"]["likelihood"]["all"]
    assert apart["edge_bits"] == pytest.approx(
        result["generated"]["likelihood"]["all"]["edge_bits"] - result["reference"]["likelihood"]["all"]["edge_bits"]
    )


def test_what_a_model_cannot_judge(folder: Path, tmp_path: Path) -> None:
    def refused(name: str = "real", checkpoint: str = "model.pt", data: Path | None = folder) -> str:
        path = folder / f"{name}.jsonl"
        options = EvaluationOptions(path, silence_units=[0], checkpoint=folder / checkpoint, data=data)
        with pytest.raises(InputError) as error:
            evaluate(options, tmp_path)
        return str(error.value)

    assert "pass --data" in refused(data=None)
    assert "no such file or folder" in refused(checkpoint="none.pt")
    (folder / "three.jsonl").write_text('{"audio": "x", "unitA": "1 2", "unitB": "1 2", "unitC": "1 2"}\n')
    assert "x has 3 channels, the model of --checkpoint 2" in refused("three")
