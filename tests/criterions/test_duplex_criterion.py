"""The loss of duplex models: what a GPU would wait for in a training step."""

from __future__ import annotations

import pytest

from speechdlm_ext.criterions.duplex_criterion import DuplexCriterion
from speechdlm_ext.models.duplex_s2s import build_duplex
from speechdlm_ext.tasks.duplex_s2s_task import DuplexS2STask, DuplexS2STaskConfig
from tests.helpers.duplex import SPEECH_DECODER, write_config, write_conversations
from tests.helpers.host_syncs import counted_syncs


@pytest.mark.parametrize("changes", [{}, {"speech_decoder": SPEECH_DECODER}], ids=["without", "speech decoder"])
def test_a_training_step_waits_for_nothing(tmp_path, changes):
    config = write_config(tmp_path, **changes)
    write_conversations(tmp_path, "train", 3)
    task = DuplexS2STask.setup_task(DuplexS2STaskConfig(data=str(tmp_path), model_config=str(config)))
    task.load_dataset("train")
    data = task.dataset("train")
    batch = data.collater([data[index] for index in range(3)])
    model, criterion = build_duplex(task.parts).train(), DuplexCriterion(task, 3.0, 4.0)
    with counted_syncs() as found:
        loss, size, _ = criterion(model, batch)
        (loss / size).backward()
    assert not found
