"""Recognition by CTC models that were fine-tuned with fairseq (wav2vec 2.0, HuBERT), from checkpoint and dictionary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechdlm_ext.asr.ctc import SAMPLE_RATE, GreedyCTC, normalised
from speechdlm_ext.compat.quiet_imports import quiet
from speechdlm_ext.encoders.hubert_model import (
    HubertBlocks,
    name_in_file,
    plain_options,
    positions_as_here,
    read_options,
)
from speechdlm_ext.encoders.model_weights import has_batch_norm, load_strictly, needed_weights, read_weights
from speechdlm_ext.errors import InputError, one_line

_BLOCKS = "w2v_encoder.w2v_model."
_PROJECTION = "w2v_encoder.proj."
# What pre-training leaves behind.
_SPARE = re.compile(r"(mask_emb$|label_embs_concat$|_ema$|encoder\.pos_conv\.0\.num_batches_tracked)")
_KINDS = re.compile(r"(wav2vec|hubert)_ctc")
_ENCODERS = re.compile(r"wav2vec2|hubert(_(base|large|xlarge)\w*)?")


class FairseqCTC(GreedyCTC):
    """A checkpoint of fairseq's ``wav2vec_ctc`` or ``hubert_ctc`` (task ``audio_finetuning``), decoded greedily.

    The wave is layer-normed where the task says so (``normalize``). Nothing in the file is run; weights must be
    exactly those of the model. ``<s>`` (label 0) is CTC's blank, and ``|`` stands between words.

    Args:
        checkpoint: as fairseq-train saves it, the options of the pre-trained model (``w2v_args``) included.
        dictionary: its letters; by default ``dict.ltr.txt`` beside the checkpoint (or of other ``labels``).

    Raises:
        InputError: a file is missing, of another model, damaged, or would run code; or they do not fit each other.
    """

    def __init__(self, checkpoint: str | Path, dictionary: str | Path | None = None) -> None:
        path = Path(checkpoint)
        with quiet():
            import fairseq.models.hubert
            import fairseq.models.wav2vec  # noqa: F401 - the classes that checkpoints name

        state, weights = read_weights(path)
        model, task = _finetuning(state, path)
        inner = plain_options(model.get("w2v_args"))
        if not inner:
            raise InputError(f"{path} lacks the options of the pre-trained model (w2v_args): use one of fairseq-train")
        options, _ = read_options({"cfg" if "model" in inner else "args": model["w2v_args"]}, path, _ENCODERS)
        self.name = f"fairseq:{path.name}"
        letters = Path(dictionary) if dictionary else path.parent / f"dict.{task['labels']}.txt"
        self.labels = _labels(letters, path)
        self.files = (path, letters)
        self._normalise: bool = task["normalize"]
        self._blank = (float(model.get("blank_weight") or 0), str(model.get("blank_mode") or "add"))
        self.projection = _projection(weights, len(self.labels), options["encoder_embed_dim"], path)
        own = {name.removeprefix(_BLOCKS): value for name, value in weights.items() if name.startswith(_BLOCKS)}
        batch_norm = has_batch_norm(own, path)
        blocks = options["encoder_layers"]
        self.blocks = HubertBlocks(options, batch_norm).eval().requires_grad_(False)
        kept = positions_as_here(needed_weights(own, blocks, blocks, _SPARE), batch_norm)
        load_strictly(self.blocks, kept, path, lambda name: _BLOCKS + (name if batch_norm else name_in_file(name)))

    def emissions(self, wave: NDArray[np.float32]) -> torch.Tensor:
        """Scores (T, K) of each label in each frame, before the softmax, of a wave (N,) at 16 kHz."""
        samples = normalised(wave, self._normalise)
        with torch.inference_mode():
            features = self.blocks(samples, [samples.shape[1]])
            if self.blocks.encoder.layer_norm_first:  # after the last block, which HubertBlocks leaves to its users
                features = self.blocks.encoder.layer_norm(features)
            scores = self.projection(features)[0]
            amount, mode = self._blank
            if amount:
                scores[:, 0] = amount if mode == "set" else scores[:, 0] + amount
        return scores


def _finetuning(state: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the fine-tuned model, and of its task ``labels`` and ``normalize``."""
    cfg = plain_options(state.get("cfg"))
    model = plain_options(cfg.get("model") or state.get("args"))
    task = plain_options(cfg.get("task")) or model
    kind = str(model.get("_name") or model.get("arch"))
    if not _KINDS.fullmatch(kind):
        raise InputError(f"{path} is of the model {kind}: a checkpoint of wav2vec_ctc or hubert_ctc is wanted")
    rate = task.get("sample_rate") or SAMPLE_RATE
    if float(rate) != SAMPLE_RATE:
        raise InputError(f"{path} hears {rate} Hz: a model for {SAMPLE_RATE} Hz is wanted")
    return model, {"labels": task.get("labels") or "ltr", "normalize": bool(task.get("normalize") or False)}


def _labels(path: Path, checkpoint: Path) -> tuple[str, ...]:
    """The text of each label of a dictionary; of its own symbols (blank, padding, end) none."""
    if not path.is_file():
        raise InputError(f"{path}: the letters of {checkpoint} are not there; pass --asr fairseq:{checkpoint}=FILE")
    from fairseq.data import Dictionary

    try:
        found = Dictionary.load(str(path))
    except Exception as error:  # of lines that are none of a dictionary, and of text that is none
        raise InputError(f"{path}: not a dictionary of fairseq ({one_line(error)[:200]})") from None
    if "|" not in found.indices:
        raise InputError(f"{path} has no | to stand between words: a dictionary of letters is wanted")
    silent = {found.bos(), found.pad(), found.eos()}
    return tuple("" if index in silent else symbol for index, symbol in enumerate(found.symbols))


def _projection(weights: Mapping[str, torch.Tensor], labels: int, dim: int, path: Path) -> torch.nn.Linear:
    strange = sorted(name for name in weights if not name.startswith((_BLOCKS, _PROJECTION)))
    given = {name.removeprefix(_PROJECTION): v for name, v in weights.items() if name.startswith(_PROJECTION)}
    if strange or set(given) != {"weight", "bias"}:
        found = f"has weights {', '.join(strange[:3])}" if strange else f"has no {_PROJECTION}weight and bias"
        raise InputError(f"{path} {found}: it is of another model")
    if given["weight"].shape != (labels, dim):
        size = given["weight"].shape[0]
        raise InputError(f"{path} has {size} labels and its dictionary {labels}, fairseq's own 4 included: use its own")
    projection = torch.nn.Linear(dim, labels)
    projection.load_state_dict(given)
    return projection.eval().requires_grad_(False)
