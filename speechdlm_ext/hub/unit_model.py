"""A trained unit language model, or several, for use from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

import torch
from torch import Tensor

from speechdlm_ext.checkpoints.pretrained_folder import save_unit_lm
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.generator import Hypothesis
from speechdlm_ext.generation.options import frames_of
from speechdlm_ext.hub.ensemble import Ensemble
from speechdlm_ext.hub.sampling import AS_LONG_AS_THE_PROMPT, decoding_options, progress_bar
from speechdlm_ext.hub.unit_scoring import UnitScore, score_units
from speechdlm_ext.models.unit_language_model import UnitLanguageModel

Units: TypeAlias = "str | Sequence[int] | Tensor"


@dataclass(frozen=True)
class UnitSample:
    """A continued sequence.

    Attributes:
        units: prompt and continuation, ``(T,)``, as numbers of the codebook.
        durations: of each unit in frames, ``(T,)``; ``None`` for a model that does not predict them.
        score: log-likelihood with the ending's, divided by (T + 1) to the power of ``len_penalty``.
        ended: whether the model ended it, and not a greatest length.
    """

    units: Tensor
    durations: Tensor | None
    score: float
    ended: bool


class UnitModel(Ensemble):
    """Trained unit language models, ready to continue and to score sequences of units.

    A sequence is text, ``"7 376 12"``, or the numbers of the units: a list of integers, or a tensor ``(T,)``.

    Attributes:
        models: the ensemble.
        dictionary: their vocabulary.
        frame_rate: frames per second of durations, or of units that are not deduplicated; ``None`` if not known.

    Raises:
        InputError: models of different codebooks.
    """

    def __init__(self, models: Sequence[UnitLanguageModel], frame_rate: float | None = None) -> None:
        sizes = sorted({model.decoder.dictionary.units for model in models})
        if len(sizes) > 1:
            raise InputError(f"models of codebooks of {' and '.join(map(str, sizes))} units cannot be one ensemble")
        super().__init__(models, models[0].decoder.dictionary)
        self.dictionary: UnitDictionary = models[0].decoder.dictionary
        self.frame_rate = frame_rate

    @property
    def units(self) -> int:
        """Size K of the codebook."""
        return self.dictionary.units

    def encode(self, units: Units, where: str = "the sequence") -> Tensor:
        """A sequence as rows of the vocabulary, ``(T,)``; raises :class:`InputError` for what is no unit of it."""
        if isinstance(units, str):
            return self.dictionary.encode_line(units, where)
        try:
            numbers = torch.as_tensor(units) if len(units) else torch.zeros(0, dtype=torch.long)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"{where}: {type(units).__name__}, text or numbers of units are expected") from None
        if numbers.dim() != 1 or numbers.is_floating_point() or numbers.dtype == torch.bool or numbers.is_complex():
            raise InputError(
                f"{where}: {tuple(numbers.shape)} of {numbers.dtype}, numbers of units (T,) are expected, or text"
            )
        outside = numbers[(numbers < 0) | (numbers >= self.units)]
        if len(outside):
            found = int(outside[0])
            raise InputError(f"{where}: {found} is no unit of this vocabulary, which has 0 to {self.units - 1}")
        return numbers.detach().cpu().long() + 1

    def decode(self, rows: Tensor) -> str:
        """Rows of the vocabulary ``(T,)`` as text; BOS and EOS are skipped."""
        return self.dictionary.string(rows)

    def sample(
        self,
        prompts: Any,
        beam: int = 1,
        verbose: bool = False,
        seed: int | Sequence[int] = 1,
        max_seconds: float | None = None,
        details: bool = False,
        **options: Any,
    ) -> Any:
        """Continue sequences; an empty one begins a new utterance.

        Args:
            prompts: one sequence, or a list of them.
            beam: hypotheses for each; the most probable is returned.
            verbose: show progress.
            seed: one for each sequence, or one number for all, see :meth:`.continue_prompts`.
            max_seconds: end a sequence that lasts so long, prompt included. It lasts as long as the model says, or, for
                one that does not predict durations, one frame a unit.
            details: return :class:`UnitSample` instead.
            options: of :class:`DecodingOptions`, and fairseq's ``lenpen`` and ``unnormalized``. ``max_len_b`` is the
                total number of units, prompt included; ``stop_at_end`` (here True) lets the model end a sequence;
                with ``window``, memory and time per unit stay constant however long it becomes.

        Returns:
            Prompt and continuation of each sequence, in the form of the input.

        Raises:
            InputError: a prompt that the model cannot take, an option that is unknown or out of range.
        """
        one = _is_one(prompts)
        asked: list[Units] = [prompts] if one else list(prompts)
        rows = [self.encode(units, f"sequence {i}").unsqueeze(1) for i, units in enumerate(asked, 1)]
        settings = decoding_options(self.with_seconds({"stop_at_end": True, **options}, max_seconds), beam)
        found = self.continue_prompts(rows, settings, seed, "sequences", verbose)
        answers = [
            _sample(best) if details else _as_asked(best, units) for units, (best, *_) in zip(asked, found, strict=True)
        ]
        return answers[0] if one else answers

    def with_seconds(self, options: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
        """Options with a greatest number of frames, which without others is the greatest number of units, too."""
        if seconds is None:
            return dict(options)
        frames = frames_of(seconds, self.frame_rate)
        length = {} if options.keys() & AS_LONG_AS_THE_PROMPT.keys() else {"max_len_b": frames}
        return {**length, **options, "max_frames": frames}

    def score(
        self, sequences: Any, ending: bool = False, batch_units: int | None = None, verbose: bool = False
    ) -> UnitScore | list[UnitScore]:
        """Log-likelihood of given sequences, each after BOS, whatever else is scored beside it.

        Args:
            sequences: one sequence, or a list of them.
            ending: score EOS after the last unit as well; DP-SLM's figures are without it.
            batch_units: units that go through the model together (default: 12,288, on a CPU 2,048).
            verbose: show progress.

        Returns:
            A :class:`UnitScore`, or a list of them for a list.

        Raises:
            InputError: a sequence with something else than units, or without any.
        """
        one = _is_one(sequences)
        asked: list[Units] = [sequences] if one else list(sequences)
        rows = [self.encode(units, f"sequence {i}") for i, units in enumerate(asked, 1)]
        for number, own in enumerate(rows, 1):
            if not len(own):
                raise InputError(f"sequence {number}: there are no units in it")
        with progress_bar(sum(map(len, rows)), "scoring", verbose) as bar:
            scores = score_units(
                list(self.models), rows, self.dictionary.bos(), ending, batch_units, progress=bar.update
            )
        return scores[0] if one else scores

    def save_pretrained(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``dict.txt``, for :meth:`UnitLM.from_pretrained`.

        Raises:
            InputError: there is a model already, and not ``overwrite``; or this is an ensemble.
        """
        save_unit_lm(folder, self.only_model(), self.frame_rate, overwrite)


def _is_one(given: Any) -> bool:
    """Whether this is one sequence and not a list of them."""
    return not isinstance(given, (list, tuple)) or bool(given and isinstance(given[0], Integral))


def _sample(best: Hypothesis) -> UnitSample:
    durations = None if best.durations is None else best.durations[:, 0]
    return UnitSample(best.units[:, 0] - 1, durations, best.score, best.ended)


def _as_asked(best: Hypothesis, asked: Units) -> Units:
    """The units in the form of the prompt."""
    units = best.units[:, 0] - 1
    if isinstance(asked, str):
        return " ".join(map(str, units.tolist()))
    return units if isinstance(asked, Tensor) else units.tolist()
