"""The task of unit language models within one process."""

from __future__ import annotations

from pathlib import Path

import torch
from fairseq.dataclass.configs import GenerationConfig

from speechdlm_ext.tasks.unit_language_modeling import UnitLanguageModelingConfig, UnitLanguageModelingTask
from tests.helpers.unit_checkpoints import utterances, write_corpus
from tests.helpers.unit_models import toy_unit_lm


def test_a_generator_changes_nothing_of_training(tmp_path: Path) -> None:
    """As where samples are generated during training: batches stay what they were."""
    write_corpus(tmp_path, utterances([4, 9, 30, 2]), "train")
    task = UnitLanguageModelingTask.setup_task(UnitLanguageModelingConfig(data=str(tmp_path), seed=1))
    task.load_dataset("train")
    dataset = task.dataset("train")

    def batches() -> list[torch.Tensor]:
        iterator = task.get_batch_iterator(dataset, max_tokens=40).next_epoch_itr(shuffle=False)
        return [batch[name] for batch in iterator for name in ("target", "id")]

    before, attributes = batches(), dict(vars(dataset))
    task.build_generator([toy_unit_lm().eval()], GenerationConfig())
    assert all(torch.equal(one, other) for one, other in zip(before, batches(), strict=True))
    assert vars(dataset) == attributes
