"""Recognisers and classifiers of speech from Python, in NeMo's manner: ``transcribe`` and ``classify``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechdlm_ext.asr.base import Word
from speechdlm_ext.asr.chunks import cut_at_silences
from speechdlm_ext.asr.conv_ctc import CHUNK_SECONDS, ConvCTC
from speechdlm_ext.asr.ctc_decoding import BeamOptions, Hypothesis
from speechdlm_ext.asr.speech_model import SpeechModel, load_speech_model
from speechdlm_ext.asr.streaming import TextStream
from speechdlm_ext.checkpoints.conv_speech import write_speech_nemo
from speechdlm_ext.data.speech_dataset import Utterance, read_utterance, read_utterances
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import stamp
from speechdlm_ext.modules.conv_speech import FRAMES, LABEL, TEXT, ConvSpeech
from speechdlm_ext.neural_types import (
    AudioSignal,
    LabelsType,
    LengthsType,
    LogitsType,
    LogprobsType,
    NeuralType,
    typecheck,
)

Sound = Union[str, "os.PathLike[str]", NDArray[Any], Tensor]
_MANIFESTS = (".json", ".jsonl")
_WITHOUT_EFFECT = {"verbose", "use_lhotse", "augmentor", "override_config", "partial_hypothesis"}  # arguments of NeMo's
T = TypeVar("T")


class Transcription(str):
    """The text of one recording: a string, that has ``.text``, too.

    Attributes:
        score: sum of the log-probabilities of the frames that are not blank; of a beam search its own score.
        words: with times in seconds.
        timestamp: with ``timestamps=True`` NeMo's form, ``{"char": [...], "word": [...], "segment": [...]}``, each item
            with ``start`` and ``end`` in seconds and ``start_offset``, ``end_offset`` in frames; else empty. An item
            ends where its last frame does, which NeMo's do not.
        length: output frames.
        y_sequence: with ``return_hypotheses=True`` the log-probabilities (length, V + 1), the blank last.
    """

    score: float
    words: tuple[Word, ...]
    timestamp: dict[str, list[dict[str, Any]]]
    length: int
    y_sequence: Tensor | None

    @property
    def text(self) -> str:
        """The text."""
        return str(self)


class Classification(NamedTuple):
    """What a clip is.

    Attributes:
        label: the most probable one.
        probability: of it.
        logits: of all labels in their order (V,); of a model of frames (T, V).
        frames: of such a model, the label of each frame; else empty.
    """

    label: str
    probability: float
    logits: Tensor
    frames: tuple[str, ...] = ()


class _Model(nn.Module):
    """What both have in common."""

    targets: tuple[str, ...]

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model
        self.network: ConvSpeech = model.network
        self.eval()

    @classmethod
    def from_pretrained(cls: type[T], path_or_name: str | os.PathLike[str]) -> T:
        """Load a ``.nemo`` file, a checkpoint of fairseq-train, a folder with one, or a published model by name.

        Raises:
            InputError: as :func:`load_speech_model`.
        """
        return cls(load_speech_model(path_or_name, *cls.targets))  # type: ignore[attr-defined, call-arg]

    restore_from = from_pretrained

    def save_to(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write a ``.nemo`` file; raises :class:`InputError` where there is one already and not ``overwrite``."""
        write_speech_nemo(self.model, Path(path), overwrite)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """Of :meth:`forward`."""
        samples = AudioSignal(freq=self.network.sample_rate)
        return {
            "input_signal": NeuralType(("B", "T"), samples), "input_signal_length": NeuralType(("B",), LengthsType()),
        }  # fmt: skip

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """Of :meth:`forward`."""
        axes = ("B",) if self.network.target == LABEL else ("B", "T")
        return {
            "outputs": NeuralType((*axes, "D"), LogprobsType() if self.network.target == TEXT else LogitsType()),
            "encoded_lengths": NeuralType(("B",), LengthsType()),
            "greedy_predictions": NeuralType(axes, LabelsType()),
        }

    @typecheck(positional=True)
    def forward(self, input_signal: Tensor, input_signal_length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of sound (B, N) with valid samples (B,), as NeMo's models give them.

        Returns:
            Scores (see ``SpeechScores``), valid frames (B,), and the most likely symbol or label of each frame or clip.
        """
        scores, lengths = self.network(input_signal, input_signal_length)
        return scores, lengths, scores.argmax(-1)

    def _waves(self, audio: Sound | Sequence[Sound] | None, channel: int | None) -> list[Tensor]:
        """Each recording's samples (N,) at the network's rate."""
        if audio is None:
            raise InputError("transcribe: no audio was given; expected paths, arrays, tensors or a manifest")
        if isinstance(audio, (str, os.PathLike, np.ndarray, Tensor)):
            audio = [audio]
        waves = [wave for one in audio for wave in self._read(one, channel)]
        if not waves:
            raise InputError("transcribe: the list of audio is empty")
        return waves

    def _read(self, sound: Sound, channel: int | None) -> Iterator[Tensor]:
        rate = self.network.sample_rate
        if isinstance(sound, (str, os.PathLike)):
            path = Path(sound)
            if path.suffix in _MANIFESTS:
                rows = read_utterances(path, self.network.target, channel)
            else:
                rows = [Utterance(f"{path}", str(path), 0.0, float("inf"), channel, None)]
            yield from (read_utterance(row, rate) for row in rows)
            return
        wave = torch.as_tensor(sound).detach().cpu()
        wave = wave.float() if wave.is_floating_point() else wave.float() / (torch.iinfo(wave.dtype).max + 1)
        if wave.dim() == 2 and (channel is not None or len(wave) == 1):
            if not 0 <= (channel or 0) < len(wave):
                raise InputError(f"transcribe: channel {channel} of sound with {len(wave)} channels")
            wave = wave[channel or 0]
        if wave.dim() != 1 or not wave.numel() or not bool(torch.isfinite(wave).all()):
            raise InputError(
                f"transcribe: sound of shape {tuple(wave.shape)}; expected finite samples (N,) at {rate} Hz, or (C, N) "
                "with channel_selector"
            )
        yield wave


class CTCModel(_Model):
    """A trained recogniser: QuartzNet, Jasper, Citrinet.

    ::

        model = CTCModel.from_pretrained("QuartzNet15x5Base-En")
        texts = model.transcribe(["a.wav", "b.wav"], batch_size=4)
    """

    targets = (TEXT,)
    _last: tuple[object, ConvCTC] | None = None

    @property
    def tokenizer(self) -> Any:
        """Text to symbols and back."""
        return self.model.tokenizer

    def transcribe(
        self,
        audio: Sound | Sequence[Sound] | None = None,
        batch_size: int = 4,
        return_hypotheses: bool = False,
        num_workers: int = 0,
        channel_selector: int | None = None,
        timestamps: bool = False,
        paths2audio_files: Sequence[Sound] | None = None,
        lm_model: str | os.PathLike[str] = "",
        lexicon: str | os.PathLike[str] = "",
        beam_size: int = 0,
        lm_weight: float = 1.0,
        word_score: float = 0.0,
        **unused: Any,
    ) -> list[Transcription]:
        """Recognise recordings; recordings longer than 25 s are cut at silences.

        A recording has the same text alone, in a batch, as a file, an array or a tensor.

        Args:
            audio: paths, arrays or tensors (N,) at the model's rate, or a list of these; or a manifest (``.json``,
                ``.jsonl``). Files of other rates are resampled.
            batch_size: recordings, or chunks of them, that are computed at once.
            return_hypotheses: keep the log-probabilities.
            num_workers: not used: files are read one after the other.
            channel_selector: channel from 0 of recordings with several.
            timestamps: times of characters and words, too.
            paths2audio_files: older name of ``audio``.
            lm_model, lexicon, beam_size, lm_weight, word_score: of a beam search, see :class:`.BeamOptions`; without
                the first three, the most likely symbol of each frame is taken.

        Returns:
            Texts in the order of the recordings.

        Raises:
            InputError: no audio, an unreadable file, or several channels and none selected.
        """
        if strange := sorted(unused.keys() - _WITHOUT_EFFECT):
            raise TypeError(f"transcribe: argument {strange[0]} is unknown")
        if batch_size < 1:
            raise InputError(f"transcribe: batch_size {batch_size}, 1 or more is expected")
        waves = self._waves(paths2audio_files if audio is None else audio, channel_selector)
        beam = BeamOptions(os.fspath(lm_model), os.fspath(lexicon), beam_size, lm_weight, word_score)
        recogniser = self._recogniser(beam)
        rate = self.network.sample_rate
        chunks = [
            (row, first, wave[first:last])
            for row, wave in enumerate(waves)
            for first, last in cut_at_silences(wave.numpy(), rate, CHUNK_SECONDS)
        ]
        found: list[list[tuple[int, Hypothesis, Tensor | None, int]]] = [[] for _ in waves]
        order = sorted(range(len(chunks)), key=lambda place: -len(chunks[place][2]))
        for begin in range(0, len(order), batch_size):
            places = order[begin : begin + batch_size]
            parts = [chunks[place][2] for place in places]
            batch = nn.utils.rnn.pad_sequence(parts, batch_first=True)
            hypotheses, (scores, frames) = recogniser.hypotheses(batch, [len(part) for part in parts])
            kept = scores.float().cpu() if return_hypotheses else None
            for number, (place, count) in enumerate(zip(places, frames.tolist(), strict=True)):
                row, first, _ = chunks[place]
                probabilities = None if kept is None else kept[number, :count].clone()
                found[row].append((first, hypotheses[number], probabilities, count))
        return [self._joined(recogniser, sorted(parts, key=lambda part: part[0]), timestamps) for parts in found]

    def _recogniser(self, beam: BeamOptions) -> ConvCTC:
        """The last one again where nothing has changed: a language model is read once."""
        key = (beam, str(self.device), *map(str, (stamp(str(path)) for path in beam.files)))
        if self._last is None or self._last[0] != key:
            self._last = key, ConvCTC(self.model, str(self.device), beam)
        return self._last[1]

    def streaming(
        self, chunk_seconds: float = 1.0, left_seconds: float = 4.0, right_seconds: float = 1.0
    ) -> TextStream:
        """Recognise sound as it arrives; see :class:`.TextStream`."""
        return TextStream(self.model, chunk_seconds, left_seconds, right_seconds)

    def _joined(self, recogniser: ConvCTC, parts: list[Any], timestamps: bool) -> Transcription:
        """The text of a recording of its chunks."""
        shift, rate = recogniser.frame_shift, self.network.sample_rate
        texts, words, characters = [], [], []
        for first, hypothesis, _, _ in parts:
            said, origin = recogniser.transcript(hypothesis), first / rate
            texts.append(said.text)
            words += [Word(word.text, word.start + origin, word.end + origin) for word in said.words]
            for symbol, start, end in zip(hypothesis.symbols, hypothesis.starts, hypothesis.ends, strict=True):
                name = self.model.symbols[symbol].replace("|", " ")
                characters.append(Word(name, start * shift + origin, end * shift + origin))
        result = Transcription(" ".join(filter(None, texts)))
        result.score = sum(hypothesis.score for _, hypothesis, _, _ in parts)
        result.words, result.length = tuple(words), sum(count for *_, count in parts)
        kept = [probabilities for _, _, probabilities, _ in parts]
        result.y_sequence = torch.cat(kept) if kept and kept[0] is not None else None
        result.timestamp = {}
        if timestamps:
            whole = [Word(result.text, words[0].start, words[-1].end)] if words else []
            for kind, items in (("char", characters), ("word", words), ("segment", whole)):
                result.timestamp[kind] = [
                    {kind: item.text, "start_offset": round(item.start / shift), "end_offset": round(item.end / shift),
                     "start": item.start, "end": item.end} for item in items
                ]  # fmt: skip
        return result


class SpeechClassifier(_Model):
    """A trained classifier of clips (MatchboxNet, MarbleNet), or of frames.

    ::

        model = SpeechClassifier.from_pretrained("commandrecognition_en_matchboxnet3x1x64_v2")
        [word.label for word in model.classify(["yes.wav", "no.wav"])]
    """

    targets = (LABEL, FRAMES)

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.model.symbols

    def classify(
        self,
        audio: Sound | Sequence[Sound] | None = None,
        batch_size: int = 4,
        channel_selector: int | None = None,
        paths2audio_files: Sequence[Sound] | None = None,
    ) -> list[Classification]:
        """Classify recordings; a recording has the same label alone or in a batch. Arguments as of ``transcribe``."""
        if batch_size < 1:
            raise InputError(f"classify: batch_size {batch_size}, 1 or more is expected")
        waves = self._waves(paths2audio_files if audio is None else audio, channel_selector)
        found = []
        for begin in range(0, len(waves), batch_size):
            part = waves[begin : begin + batch_size]
            lengths = torch.tensor([len(wave) for wave in part], device=self.device)
            with torch.inference_mode():
                batch = nn.utils.rnn.pad_sequence(part, batch_first=True).to(self.device)
                logits, frames = self.network(batch, lengths)
            counts = frames.tolist()
            for row, count in zip(logits.float().cpu(), counts, strict=True):
                found.append(self._classified(row[:count] if self.network.target == FRAMES else row))
        return found

    def _classified(self, logits: Tensor) -> Classification:
        probabilities = logits.softmax(-1)
        mean = probabilities.mean(0) if probabilities.dim() == 2 else probabilities
        best = int(mean.argmax())
        of_frames = logits.argmax(-1).tolist() if logits.dim() == 2 else []
        return Classification(
            self.labels[best], float(mean[best]), logits, tuple(self.labels[label] for label in of_frames)
        )
