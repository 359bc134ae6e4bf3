"""The loss of duplex models: beside the public code, and what a GPU would wait for in a training step."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from speechdlm_ext.criterions.duplex_criterion import DuplexCriterion
from speechdlm_ext.data.duplex_cuts import read_cuts
from speechdlm_ext.data.duplex_dataset import DuplexS2SDataset
from speechdlm_ext.hub.duplex import DuplexS2SSpeechDecoderModel
from speechdlm_ext.models.duplex_s2s import build_duplex
from speechdlm_ext.neural_types import LossType
from speechdlm_ext.tasks.duplex_s2s_task import DuplexS2STask, DuplexS2STaskConfig
from tests.helpers.duplex import SPEECH_DECODER, write_config, write_conversations
from tests.helpers.host_syncs import counted_syncs
from tests.helpers.references import reference_path


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


@pytest.mark.commands
def test_the_loss_is_that_of_the_public_code_over_frames_that_exist(duplex_reference):
    """3 · text + 4 · codes, a mean over codebooks, of the public code's logits; and its borders have types."""
    arrays, model, batch = duplex_reference
    criterion = DuplexCriterion(SimpleNamespace(ids=model.model.ids), 3.0, 4.0)
    sample = {"net_input": {"batch": batch}, "ntokens": 0, "nsentences": 3}
    with torch.no_grad():
        loss, size, logs = criterion(model, sample)
    lengths = arrays["prepared_input_lens"].tolist()
    text, codes = 0.0, 0.0
    for row, count in enumerate(lengths):
        scores = arrays["text_logits"][row, :count].double().log_softmax(-1).numpy()
        text -= scores[range(count), arrays["prepared_text_labels"][row, :count].numpy()].sum()
        for book in range(arrays["audio_logits"].size(2)):
            scores = arrays["audio_logits"][row, :count, book].double().log_softmax(-1).numpy()
            codes -= scores[range(count), arrays["prepared_audio_labels"][row, :count, book].numpy()].sum()
    codes /= arrays["audio_logits"].size(2)
    assert min(lengths) < max(lengths) and int(size) == sum(lengths)
    assert float(logs["text_loss"]) == pytest.approx(text, rel=1e-5)
    assert float(logs["audio_loss"]) == pytest.approx(codes, rel=1e-5)
    assert float(loss) == pytest.approx(3 * text + 4 * codes, rel=1e-5)


@pytest.mark.commands
def test_its_borders_have_types(duplex_reference):
    _, model, _ = duplex_reference
    criterion = DuplexCriterion(SimpleNamespace(ids=model.model.ids), 3.0, 4.0)
    logits, labels = (torch.zeros(2, 5, 7), torch.zeros(2, 5, 3, 9)), torch.zeros(2, 5, dtype=torch.long)
    for found in criterion.losses(*logits, labels, labels.unsqueeze(2).repeat(1, 1, 3)):
        assert isinstance(found.neural_type.elements_type, LossType)
    with pytest.raises(TypeError, match=r"DuplexCriterion.losses, argument codes: found Tensor of shape \(2, 5\)"):
        criterion.losses(*logits, labels, labels)


@pytest.fixture(scope="module")
def duplex_reference():
    """Outputs of the public code, its model here, and its batch."""
    folder = reference_path("nemo/speechlm/duplex_s2s_speech_decoder")
    with np.load(folder / "io.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file}
    model = DuplexS2SSpeechDecoderModel.from_pretrained(folder / "model")
    data = DuplexS2SDataset(model.tokenizer, 0.08, model.source_sample_rate, model.target_sample_rate)
    batch = data[read_cuts(reference_path("nemo/speechlm/cuts.jsonl"))]
    return arrays, model, model.encode_target(batch)
