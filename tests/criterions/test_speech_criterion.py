"""Losses of speech recognition against what NeMo computed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import editdistance
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechdlm_ext.asr.speech_model import SpeechModel, load_speech_model
from speechdlm_ext.criterions.speech_criterion import IGNORED, CTCCriterion, LabelCriterion, frames_labels
from speechdlm_ext.data.symbol_dictionary import SymbolDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.neural_types import LossType
from speechdlm_ext.tasks.validation_log import ValidationLog


def task_of(model: SpeechModel) -> Any:
    dictionary = SymbolDictionary(model.symbols, model.tokenizer)
    return SimpleNamespace(
        target=model.network.target, symbols=model.symbols, target_dictionary=dictionary, validation=ValidationLog()
    )


def sample_of(reference: Any) -> dict[str, Any]:
    lengths = torch.from_numpy(reference["audio_len"])
    wave = torch.from_numpy(reference["audio"]) / 32768
    return {
        "net_input": {"wave": wave, "lengths": lengths}, "samples": lengths.tolist(), "nsentences": len(wave),
        "target": torch.from_numpy(reference["targets"]), "target_lengths": reference["targets_len"].tolist(),
        "ntokens": 1, "id": torch.arange(len(wave)),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ctc_char", "ctc_bpe"])
def test_ctc_is_nemos(data: Path, name: str) -> None:
    folder = data / "reference/nemo"
    reference, wanted = np.load(folder / f"{name}_batch.npz"), json.loads((folder / f"{name}_batch.json").read_text())
    model = load_speech_model(folder / f"{name}.nemo")
    sample, task, network = sample_of(reference), task_of(model), model.network
    for reduction in ("mean_batch", "mean_volume", "mean", "sum"):
        loss, size, logs = CTCCriterion(task, reduction, False)(network, sample)
        assert float(loss) / size == pytest.approx(wanted["ctc_loss"][reduction], rel=1e-5)
    texts = [text.split() for text in wanted["decoded"]]
    said = [text.split() for text in wanted["transcripts"]]
    assert logs["word_errors"] == sum(editdistance.eval(a, b) for a, b in zip(texts, said, strict=True))
    assert logs["words"] == wanted["wer_num_denom"][2] == 18
    network.train().requires_grad_(True)
    network.preprocessor.featurizer.dither = 0.0
    network.spec_augment.eval()
    loss, size, _ = CTCCriterion(task, "mean_batch", False)(network, sample)
    (loss / size).backward()
    assert float(loss.detach()) / size == pytest.approx(wanted["train_mode_loss"], rel=1e-5)
    norms = {key: float(weight.grad.norm()) for key, weight in network.named_parameters() if weight.grad is not None}
    assert norms == pytest.approx(wanted["grad_norms"], rel=5e-3)


def test_ctc_of_one_clip(data: Path) -> None:
    """A tracked counterpart: the loss of one clip, and texts that no alignment fits."""
    folder = data / "reference/nemo"
    wanted = json.loads((folder / "ctc_char.json").read_text())
    targets = torch.from_numpy(np.load(folder / "ctc_char.npz")["targets"])
    model = load_speech_model(folder / "ctc_char.nemo")
    wave = read_audio(data / "speech/ljspeech/LJ001-0002.flac")[0]
    sample = {
        "net_input": {"wave": wave, "lengths": torch.tensor([wave.shape[1]])}, "samples": [wave.shape[1]],
        "nsentences": 1, "target": targets[None], "target_lengths": [len(targets)], "id": torch.tensor([0]),
    }  # fmt: skip
    loss, size, logs = CTCCriterion(task_of(model), "mean_batch", False)(model.network, sample)
    assert float(loss) / size == pytest.approx(wanted["loss"], rel=1e-5) and logs["impossible"] == 0
    long = targets.repeat(6)
    sample.update(target=long[None], target_lengths=[len(long)])
    loss, _, logs = CTCCriterion(task_of(model), "mean_batch", False)(model.network, sample)
    assert float(loss) == 0 and logs["impossible"] == 1
    loss, _, _ = CTCCriterion(task_of(model), "mean_batch", True)(model.network, sample)
    assert float(loss) == float("inf")


def test_reductions_are_means_over_utterances_or_symbols(data: Path) -> None:
    """From the loss of each of two rows, one of which NeMo computed; the texts differ in length."""
    folder = data / "reference/nemo"
    targets = torch.from_numpy(np.load(folder / "ctc_char.npz")["targets"])
    model = load_speech_model(folder / "ctc_char.nemo")
    wave = read_audio(data / "speech/ljspeech/LJ001-0002.flac")[0].repeat(2, 1)
    samples, sizes = [wave.shape[1]] * 2, [len(targets), 5]
    sample = {
        "net_input": {"wave": wave, "lengths": torch.tensor(samples)}, "samples": samples, "nsentences": 2,
        "target": torch.stack((targets, targets)), "target_lengths": sizes, "id": torch.arange(2),
    }  # fmt: skip
    scores, frames = model.network(**sample["net_input"])
    first = json.loads((folder / "ctc_char.json").read_text())["loss"]
    blank = scores.shape[2] - 1
    second = float(
        F.ctc_loss(scores[1:].transpose(0, 1), targets[None, :5], frames[1:], torch.tensor([5]), blank, "sum")
    )
    wanted = {
        "sum": first + second, "mean_batch": (first + second) / 2, "mean_volume": (first + second) / sum(sizes),
        "mean": (first / sizes[0] + second / sizes[1]) / 2,
    }  # fmt: skip
    for reduction, value in wanted.items():
        loss, size, logs = CTCCriterion(task_of(model), reduction, False)(model.network, sample)
        assert float(loss) / size == pytest.approx(value, rel=1e-5), reduction
        assert float(logs["nll_loss"]) == pytest.approx(first + second, rel=1e-5) and logs["ntokens"] == sum(sizes)


def test_labels_of_another_rate(data: Path) -> None:
    reference = np.load(data / "reference/nemo/frame_vad_batch.npz")
    lengths = torch.from_numpy(reference["encoded_len"])
    half = torch.from_numpy(reference["reshape_half_in"])
    found = frames_labels(half, reference["reshape_half_in_len"].tolist(), lengths, 225)
    wanted = torch.from_numpy(reference["reshape_half_out"])
    for row, (ours, valid) in enumerate(zip(reference["reshape_half_out_len"], lengths.tolist(), strict=True)):
        end = min(int(ours), valid)
        assert torch.equal(found[row, :end], wanted[row, :end]) and (found[row, valid:] == IGNORED).all()


def test_labels_of_twice_the_rate_are_folded_by_their_maximum() -> None:
    labels = torch.tensor([[0, 1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0]])
    found = frames_labels(labels, [7, 4], torch.tensor([4, 2]), 4)
    assert found.tolist() == [[1, 0, 1, 0], [1, 0, IGNORED, IGNORED]]


def test_frame_loss_is_nemos_where_labels_end_with_the_clip(data: Path) -> None:
    folder = data / "reference/nemo"
    reference = np.load(folder / "frame_vad_batch.npz")
    wanted = json.loads((folder / "frame_vad_batch.json").read_text())["loss_masked"]
    sizes = reference["labels_len"].tolist()
    target = frames_labels(torch.from_numpy(reference["labels"]), sizes, torch.tensor(sizes), 225)
    logits = torch.from_numpy(reference["logits"])
    assert float(F.cross_entropy(logits.flatten(0, 1), target.flatten())) == pytest.approx(wanted, rel=1e-5)


def test_label_loss_and_figures(data: Path) -> None:
    folder = data / "reference/nemo"
    reference = np.load(folder / "commands.npz")
    model = load_speech_model(folder / "commands.nemo")
    lengths = torch.from_numpy(reference["audio_len"])
    labels = torch.from_numpy(reference["labels"])
    sample = {
        "net_input": {"wave": torch.from_numpy(reference["audio"]) / 32768, "lengths": lengths}, "ntokens": 1,
        "target": labels[:, None], "target_lengths": [1, 1], "nsentences": 2,
    }  # fmt: skip
    loss, size, logs = LabelCriterion(task_of(model), None)(model.network, sample)
    logits = torch.from_numpy(reference["logits"])
    assert float(loss) / int(size) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
    assert int(logs["correct"]) == int((logits.argmax(1) == labels).sum()) and int(logs["labels"]) == 2
    expected = torch.zeros(5, 5, dtype=torch.long)
    for label, best in zip(labels, logits.argmax(1), strict=True):
        expected[label, best] += 1
    assert torch.equal(logs["confusion"], expected) and "histograms" not in logs
    weights = [1.0, 2.0, 3.0, 4.0, 5.0]
    loss, size, _ = LabelCriterion(task_of(model), "1,2,3,4,5")(model.network, sample)
    weighted = F.cross_entropy(logits, labels, torch.tensor(weights))
    assert float(loss) / float(size) == pytest.approx(float(weighted), rel=1e-4)
    with pytest.raises(InputError, match="5 are expected, one a label"):
        LabelCriterion(task_of(model), "1,2")
    with pytest.raises(InputError, match="use speech_labels"):
        CTCCriterion(task_of(model), "mean_batch", False)


class Given(nn.Module):
    """A model that gives the logits it is told to."""

    def __init__(self, logits: torch.Tensor, lengths: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.lengths = logits, lengths

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.logits, self.lengths


@pytest.mark.parametrize("workers", [1, 2])
def test_figures_of_a_detector_are_those_of_all_that_was_validated(workers: int) -> None:
    """Not means over batches; batches of several workers are summed first, as fairseq does it. scikit-learn knows."""
    from fairseq import metrics
    from sklearn import metrics as known

    rng = np.random.default_rng(0)
    task = SimpleNamespace(target="frame_labels", symbols=("0", "1"))
    criterion, labels, scores = LabelCriterion(task, None), [], []
    with metrics.aggregate(new_root=True) as meters:
        for batch in range(4):
            outputs = []
            for worker in range(workers):
                lengths = torch.tensor([50, 20 + 5 * batch + worker])
                target = torch.from_numpy((rng.random((2, 50)) < 0.1 + 0.2 * batch).astype(np.int64))
                logits = torch.from_numpy(rng.normal(0, 1, (2, 50, 2)))
                logits[..., 1] += target + 0.2 * batch
                sample = {"net_input": {}, "target": target, "target_lengths": lengths.tolist(), "ntokens": 1}
                outputs.append(criterion(Given(logits, lengths).eval(), {**sample, "nsentences": 2})[2])
                for row, length in enumerate(lengths):
                    labels += target[row, :length].tolist()
                    scores += logits[row, :length].softmax(-1)[:, 1].tolist()
            summed = {name: sum(one[name] for one in outputs) for name in outputs[0]}
            LabelCriterion.reduce_metrics([summed] if batch % 2 else outputs)
        found, predicted = meters.get_smoothed_values(), np.array(scores) > 0.5
    wanted = known.precision_recall_fscore_support(labels, predicted, average="binary")[:3]
    assert [found[name] for name in ("precision", "recall", "f1")] == pytest.approx([100 * x for x in wanted])
    assert found["accuracy"] == pytest.approx(100 * known.accuracy_score(labels, predicted))
    assert found["auroc"] == pytest.approx(100 * known.roc_auc_score(labels, scores), abs=0.1)
    assert meters["_confusion"].sum.tolist() == known.confusion_matrix(labels, predicted).tolist()


def test_losses_are_typed(data: Path) -> None:
    """What goes into a loss is checked: log-probabilities of the decoder, not its logits or features."""
    model = load_speech_model(data / "reference/nemo/ctc_char.nemo")
    criterion = CTCCriterion(task_of(model), "mean_batch", False)
    wave, length = torch.randn(1, 8000), torch.tensor([8000])
    log_probs, frames = model.network(wave, length)
    features, _ = model.network.preprocessor(wave, length)
    target = torch.tensor([[1, 2]])
    losses = criterion.losses(log_probs, target, frames, torch.tensor([2]))
    assert isinstance(losses.neural_type.elements_type, LossType)
    with pytest.raises(TypeError, match="CTCCriterion.losses, argument log_probs: found .*SpectrogramType; expected"):
        criterion.losses(features, target, frames, torch.tensor([2]))
    with pytest.raises(TypeError, match=r"CTCCriterion.losses, argument targets: found Tensor of shape \(2,\)"):
        criterion.losses(log_probs, target[0], frames, torch.tensor([2]))
