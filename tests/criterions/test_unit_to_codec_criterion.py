"""The loss of unit-to-codec models beside a sum over single rows and targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from speechdlm_ext.criterions.unit_to_codec_criterion import UnitToCodecCriterion
from speechdlm_ext.models.unit_to_codec import UnitToCodec
from speechdlm_ext.tasks.unit_to_codec_task import UnitToCodecTask, UnitToCodecTaskConfig
from tests.helpers.dpslm import CODES, acoustic_model

ROWS = (("1 1 2 2 2", [3, 4, 5, 6]), ("0 0 0 0 0 5 5 5 5 5", [7, 8, 9, 1, 2, 3, 4, 5]))


@torch.no_grad()
@pytest.mark.parametrize("published", [False, True])
def test_codec_tokens_and_ends_are_what_is_trained(published: bool, tmp_path: Path) -> None:
    model: UnitToCodec = acoustic_model(6).model
    lines = [
        {"audio": str(i), "unitA": units, "codec": " ".join(map(str, codec)), "codec_rate": 40}
        for i, (units, codec) in enumerate(ROWS)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = UnitToCodecTaskConfig(data=str(tmp_path), units=6, codec_types=CODES, published_mask=published)
    task = UnitToCodecTask.setup_task(config)
    task.load_dataset("train")
    dataset = task.dataset("train")
    loss, size, logs = UnitToCodecCriterion(task, False)(model, dataset.collater([dataset[0], dataset[1]]))
    ids, expected, targets = task.dictionary.token_to_id, 0.0, 0
    first = ids["u0"]  # has the first id after the special symbols
    for units, codec in ROWS:
        sequence = task.dictionary.sequence(units.split(), codec).ids.tolist()
        logs_of = model(torch.tensor([sequence[:-1]]))[0][0].double().log_softmax(-1)
        for place, target in enumerate(sequence[1:]):
            sounding = target in (ids["EOP"], ids["EOS"]) or target in task.dictionary.codec_ids.tolist()
            if sounding or (published and target == first):
                expected, targets = expected - float(logs_of[place, target]), targets + 1
    assert size == targets == int(logs["ntokens"])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
