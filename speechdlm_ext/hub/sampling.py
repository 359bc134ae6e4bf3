"""What sampling from Python takes, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import TracebackType
from typing import Any

from torch import Tensor
from tqdm import tqdm

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.options import DecodingOptions

# A total length of a·(prompt + 1) + b frames that is the prompt's own.
AS_LONG_AS_THE_PROMPT = {"max_len_a": 1.0, "max_len_b": -1}


def decoding_options(given: Mapping[str, Any], beam: int = 1, as_long_as_the_prompt: bool = False) -> DecodingOptions:
    """Options by name, with fairseq's ``lenpen`` and ``unnormalized`` as well.

    Args:
        as_long_as_the_prompt: where no greatest length is given, the prompt's is meant.

    Raises:
        InputError: an option that is unknown or out of range.
    """
    options = dict(given)
    if "lenpen" in options:
        options["len_penalty"] = options.pop("lenpen")
    if "unnormalized" in options:
        options["normalize_scores"] = not options.pop("unnormalized")
    known = [option.name for option in fields(DecodingOptions)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InputError(f"{unknown[0]}: no option of sampling; there are {', '.join(known)}")
    if as_long_as_the_prompt and not options.keys() & AS_LONG_AS_THE_PROMPT.keys():
        options.update(AS_LONG_AS_THE_PROMPT)
    return DecodingOptions(beam=beam, **options)


def check_free(prompts: Sequence[Tensor], options: DecodingOptions, free: Sequence[int]) -> None:
    """Raise :class:`InputError` for a prompt ``(T, C)`` in which nothing is left for the model to say.

    Args:
        free: the ids of frames that the model fills in.
    """
    for number, prompt in enumerate(prompts, 1):
        if options.limit(len(prompt)) == len(prompt) and not any(bool(prompt.eq(symbol).any()) for symbol in free):
            raise InputError(
                f"dialogue {number}: all {len(prompt)} frames of every channel are given, nothing is left to continue: "
                "cut the other channels, with prompt_frames or by hand"
            )


class FrameProgress:
    """Tells how many frames are done from the frame numbers that a generator reports; a context manager.

    Prompts that are continued to the same length go side by side, the shortest first.

    Args:
        limits: total length of each prompt in frames.
        tell: called with the number of frames done since the last call; all are done when the context ends well.
    """

    def __init__(self, limits: Sequence[int], tell: Callable[[int], object]) -> None:
        self.groups = sorted(Counter(limits).items())
        self.tell = tell
        self.total = sum(limits)
        self.finished = self.last = self.told = 0

    def __call__(self, frame: int) -> None:
        while len(self.groups) > 1 and (frame <= self.last or frame > self.groups[0][0]):
            limit, count = self.groups.pop(0)
            self.finished += limit * count
            self.last = 0
        self.last = frame
        self._tell(self.finished + frame * self.groups[0][1])

    def _tell(self, done: int) -> None:
        if done > self.told:
            self.tell(done - self.told)
            self.told = done

    def __enter__(self) -> FrameProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._tell(self.total)


def progress_bar(frames: int, what: str, visible: bool) -> tqdm:
    """A bar on standard error over so many frames."""
    return tqdm(total=frames, unit=" frames", desc=what, mininterval=1.0, disable=not visible)
