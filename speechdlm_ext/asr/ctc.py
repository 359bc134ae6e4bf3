"""Recognition by CTC models, decoded greedily: checkpoints that were fine-tuned with fairseq, bundles of torchaudio."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from speechdlm_ext.asr.base import LAUGHTER, SAMPLE_RATE, Recogniser, Transcript, Word
from speechdlm_ext.asr.ctc_decoding import BeamOptions, BeamSearch, greedy, timed_words
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.modules.devices import open_device

if TYPE_CHECKING:
    import torch


class CTC(Recogniser):
    """A CTC model that is decoded greedily, or by a beam search.

    Attributes:
        labels: text of each label; label 0 is the blank, and ``|`` separates words.
        normalise: whether waves are layer-normed before the model.
    """

    labels: tuple[str, ...]
    normalise: bool
    _search: BeamSearch | None = None

    def search_with(self, beam: BeamOptions) -> None:
        """See :meth:`Recogniser.search_with`."""
        self._search = beam.search(self.labels[1:], list, blank=0)
        self.files = (*self.files, *beam.files)

    @abstractmethod
    def emissions(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
        """Scores (T_i, K) of each label in each frame, for each row of a batch (B, N) at 16 kHz."""

    @property
    def supports_laughter(self) -> bool:  # type: ignore[override]
        """Whether one of the labels is a tag such as ``[laughter]``."""
        return any(LAUGHTER.fullmatch(label) for label in self.labels)

    def transcribe(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[Transcript]:
        """See :meth:`Recogniser.transcribe`."""
        found = []
        for scores, length in zip(self.emissions(waves, lengths), lengths, strict=True):
            shift = length / SAMPLE_RATE / max(1, len(scores))
            words = ctc_words(scores, self.labels, shift, self._search)
            found.append(Transcript(" ".join(word.text for word in words), tuple(words)))
        return found

    def _prepared(self, waves: torch.Tensor, lengths: Sequence[int], device: torch.device) -> torch.Tensor:
        """The batch on the device, each row layer-normed where the model needs that."""
        import torch

        if self.normalise:
            rows = [row[:length] for row, length in zip(waves, lengths, strict=True)]
            rows = [torch.nn.functional.layer_norm(row, row.shape) for row in rows]
            waves = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return waves.to(device)


def ctc_words(
    emissions: torch.Tensor, labels: tuple[str, ...], frame_shift: float, search: BeamSearch | None = None
) -> list[Word]:
    """Words of the most likely labels: repetitions are merged, then blanks (label 0) dropped; ``|`` separates words.

    Args:
        emissions: scores of each frame (T, K).
        labels: K of them.
        frame_shift: seconds.
        search: finds the labels; default: those that are most likely in each frame.

    Returns:
        Words from the first frame of their first label to the last of their last one.
    """
    if search is None:
        found = greedy(emissions[None], [len(emissions)], blank=0)[0]
    else:
        found = search(emissions[None].log_softmax(-1), [len(emissions)])[0][0]
    return timed_words([labels[label] for label in found.symbols], found.starts, found.ends, frame_shift)


_BLOCKS = "w2v_encoder.w2v_model."
_PROJECTION = "w2v_encoder.proj."
# What pre-training leaves behind.
_SPARE = re.compile(r"(mask_emb$|label_embs_concat$|_ema$|encoder\.pos_conv\.0\.num_batches_tracked)")
_KINDS = re.compile(r"(wav2vec|hubert)_ctc")
_ENCODERS = re.compile(r"wav2vec2|hubert(_(base|large|xlarge)\w*)?")


class FairseqCTC(CTC):
    """A checkpoint of fairseq's ``wav2vec_ctc`` or ``hubert_ctc`` (task ``audio_finetuning``), decoded greedily.

    The wave is layer-normed where the task says so (``normalize``). Nothing in the file is run; weights must be
    exactly those of the model. ``<s>`` (label 0) is CTC's blank.

    Args:
        checkpoint: as fairseq-train saves it, the options of the pre-trained model (``w2v_args``) included.
        dictionary: its letters; by default ``dict.ltr.txt`` beside the checkpoint (or of other ``labels``).

    Raises:
        InputError: a file is missing, of another model, damaged, or would run code; or they do not fit each other.
    """

    kind: ClassVar[str] = "fairseq"
    usage: ClassVar[str] = "fairseq:CHECKPOINT[=DICTIONARY]"

    def __init__(self, checkpoint: str | Path, dictionary: str | Path | None = None, device: str | None = None) -> None:
        from speechdlm_ext.compat.quiet_imports import quiet
        from speechdlm_ext.encoders.chunking import FrameGrid
        from speechdlm_ext.encoders.hubert import (
            HubertBlocks,
            name_in_file,
            plain_options,
            positions_as_here,
            read_options,
        )
        from speechdlm_ext.encoders.model_weights import has_batch_norm, load_strictly, needed_weights, read_weights

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
        letters = Path(dictionary) if dictionary else path.parent / f"dict.{task['labels']}.txt"
        self.labels = _labels(letters, path)
        self.files = (path, letters)
        self.normalise = task["normalize"]
        self._blank = (float(model.get("blank_weight") or 0), str(model.get("blank_mode") or "add"))
        self.projection = _projection(weights, len(self.labels), options["encoder_embed_dim"], path)
        own = {name.removeprefix(_BLOCKS): value for name, value in weights.items() if name.startswith(_BLOCKS)}
        batch_norm = has_batch_norm(own, path)
        blocks = options["encoder_layers"]
        self.blocks = HubertBlocks(options, batch_norm).eval().requires_grad_(False)
        kept = positions_as_here(needed_weights(own, blocks, blocks, _SPARE), batch_norm)
        load_strictly(self.blocks, kept, path, lambda name: _BLOCKS + (name if batch_norm else name_in_file(name)))
        self._grid = FrameGrid(tuple((conv.kernel_size[0], conv.stride[0]) for conv, _ in self.blocks.stages))
        place = open_device(device)
        self.blocks.to(place)
        self.projection.to(place)

    @classmethod
    def from_spec(cls, model: str, device: str | None = None, language: str = "", prompt: str = "") -> FairseqCTC:
        """See :meth:`Recogniser.from_spec`."""
        if not model:
            raise InputError(f"--asr fairseq: expected {cls.usage}")
        if "=" in model and not Path(model).is_file():
            checkpoint, _, dictionary = model.rpartition("=")
            return cls(checkpoint, dictionary, device)
        return cls(model, device=device)

    def emissions(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
        """Scores (T_i, K) of each label in each frame, before the softmax, of each row of (B, N) at 16 kHz."""
        import torch

        with torch.inference_mode():
            features = self.blocks(self._prepared(waves, lengths, self.projection.weight.device), list(lengths))
            if self.blocks.encoder.layer_norm_first:  # after the last block, which HubertBlocks leaves to its users
                features = self.blocks.encoder.layer_norm(features)
            scores = self.projection(features)
            amount, mode = self._blank
            if amount:
                scores[..., 0] = amount if mode == "set" else scores[..., 0] + amount
            return [row[: self._grid.frames(length)] for row, length in zip(scores, lengths, strict=True)]


def _finetuning(state: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the fine-tuned model, and of its task ``labels`` and ``normalize``."""
    from speechdlm_ext.encoders.hubert import plain_options

    cfg = plain_options(state.get("cfg"))
    model = plain_options(cfg.get("model") or state.get("args"))
    task = plain_options(cfg.get("task")) or model
    kind = str(model.get("_name") or model.get("arch"))
    if not _KINDS.fullmatch(kind):
        raise InputError(f"{path} is of the model {kind}: expected a checkpoint of wav2vec_ctc or hubert_ctc")
    rate = task.get("sample_rate") or SAMPLE_RATE
    if float(rate) != SAMPLE_RATE:
        raise InputError(f"{path} is for {rate} Hz: expected a model for {SAMPLE_RATE} Hz")
    return model, {"labels": task.get("labels") or "ltr", "normalize": bool(task.get("normalize") or False)}


def _labels(path: Path, checkpoint: Path) -> tuple[str, ...]:
    """The text of each label of a dictionary; of its own symbols (blank, padding, end) none."""
    if not path.is_file():
        raise InputError(f"{path}: the letters of {checkpoint} are missing; pass --asr fairseq:{checkpoint}=FILE")
    from fairseq.data import Dictionary

    try:
        found = Dictionary.load(str(path))
    except Exception as error:  # of other lines, and of other encodings
        raise InputError(f"{path}: not a dictionary of fairseq ({one_line(error)[:200]})") from None
    if "|" not in found.indices:
        raise InputError(f"{path} has no | between words: expected a dictionary of letters")
    silent = {found.bos(), found.pad(), found.eos()}
    return tuple("" if index in silent else symbol for index, symbol in enumerate(found.symbols))


def _projection(weights: Mapping[str, torch.Tensor], labels: int, dim: int, path: Path) -> torch.nn.Linear:
    import torch

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


_SERVER = "https://download.pytorch.org/torchaudio/models/"
_OUTPUT = ("aux.weight", "aux.bias")


class TorchaudioCTC(CTC):
    """A bundle such as ``WAV2VEC2_ASR_BASE_960H``, decoded greedily.

    Args:
        name: of the bundle.
        weights: its weights, as published or as ``bundle.get_model().state_dict()``; by default the file that
            torch.hub keeps. Nothing is downloaded, and nothing in the file is run.

    Raises:
        InputError: no such bundle, or its weights are missing or others.
    """

    kind: ClassVar[str] = "torchaudio"
    usage: ClassVar[str] = "torchaudio:BUNDLE[=WEIGHTS]"

    def __init__(self, name: str, weights: str | Path | None = None, device: str | None = None) -> None:
        import torch
        import torchaudio

        bundle = _bundle(name)
        path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / Path(bundle._path).name
        if not path.is_file():
            address = bundle._path if bundle._path.startswith("https:") else _SERVER + bundle._path
            raise InputError(
                f"{path}: the weights of {name} are missing; nothing is downloaded unasked: fetch {address} to it, "
                f"or pass --asr torchaudio:{name}=FILE"
            )
        self.files = (path,)
        self.labels = tuple(bundle.get_labels())
        self.normalise = bool(bundle._normalize_waveform)
        self.model = torchaudio.models.wav2vec2_model(**bundle._params).eval().requires_grad_(False)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(_without_unused(state, bundle))
        except Exception as error:  # of unpickling, of missing and of unexpected names
            raise InputError(f"{path}: not the weights of {name} ({one_line(error)[:300]})") from None
        self.device = open_device(device)
        self.model.to(self.device)
        # The norm of the first convolution is over time: padding would change the row.
        self._alone = bundle._params["extractor_mode"] == "group_norm"

    @classmethod
    def from_spec(cls, model: str, device: str | None = None, language: str = "", prompt: str = "") -> TorchaudioCTC:
        """See :meth:`Recogniser.from_spec`."""
        name, _, weights = model.partition("=")
        return cls(name, weights or None, device)

    def emissions(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
        """See :meth:`CTC.emissions`."""
        import torch

        if self._alone and min(lengths) < waves.shape[1]:
            rows = zip(waves, lengths, strict=True)
            return [scores for row, length in rows for scores in self.emissions(row[None, :length], [length])]
        with torch.inference_mode():
            samples = self._prepared(waves, lengths, self.device)
            scores, frames = self.model(samples, torch.tensor(lengths, device=self.device))
            return [row[:count] for row, count in zip(scores, frames.tolist(), strict=True)]


def _bundle(name: str) -> Any:
    """The bundle of this name; those for alignment have no label between words, and are refused."""
    from torchaudio import pipelines as kinds

    found = getattr(kinds, name, None)
    if _recognises(found):
        return found
    known = ", ".join(each for each in dir(kinds) if _recognises(getattr(kinds, each)))
    raise InputError(f"--asr torchaudio:{name}: no such CTC bundle; expected one of {known}")


def _recognises(bundle: Any) -> bool:
    from torchaudio.pipelines import Wav2Vec2ASRBundle

    return isinstance(bundle, Wav2Vec2ASRBundle) and "|" in bundle.get_labels() and bundle.sample_rate == SAMPLE_RATE


def _without_unused(state: dict[str, torch.Tensor], bundle: Any) -> dict[str, torch.Tensor]:
    """Published files have the outputs of fairseq's own symbols, which the bundle's model does not have."""
    unused = {axis for axis in bundle._remove_aux_axis or () if isinstance(axis, int)}
    outputs = len(state["aux.bias"]) if "aux.bias" in state else 0
    if outputs != bundle._params["aux_num_out"] + len(unused):
        return state
    kept = [axis for axis in range(outputs) if axis not in unused]
    return {**state, **{name: state[name][kept] for name in _OUTPUT if name in state}}
