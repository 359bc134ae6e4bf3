"""CTC on sound that arrives in chunks: windows that overlap, of which the middle is kept, and text that only grows.

A model that sees the whole recording, and one that sees a window, differ in two ways: convolutions reach as far as
their receptive field, and features that are normalised over time are normalised over the window. With enough context on
both sides the first difference is none; the second remains. ``docs/speech_recognition.md`` has what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from speechdlm_ext.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from speechdlm_ext.asr.speech_model import SpeechModel


_CONTEXT = 16  # symbols before new ones that their spelling may depend on


class WindowedScores:
    """Scores of frames as the sound for them arrives.

    Args:
        scores: of a window of sound (N,): (T, K), frame i at sample ``i * frame_samples``.
        frame_samples: samples from one frame to the next.
        chunk_frames: frames that are given out at once; the delay is this and ``right_frames``.
        left_frames: context before them.
        right_frames: context behind them; 0 for a causal model.

    Raises:
        InputError: a number is below what is possible.
    """

    def __init__(
        self, scores: Callable[[Tensor], Tensor], frame_samples: int, chunk_frames: int, left_frames: int,
        right_frames: int,
    ) -> None:  # fmt: skip
        if chunk_frames < 1 or left_frames < 0 or right_frames < 0:
            raise InputError(
                f"windows of {left_frames} + {chunk_frames} + {right_frames} frames: expected a chunk of at least 1"
            )
        self._scores, self._step = scores, frame_samples
        self._chunk, self._left, self._right = chunk_frames, left_frames, right_frames
        self._wave: Tensor | None = None  # from frame _first on
        self._first = self._done = 0  # frames: that the kept sound begins with; that were given out

    def feed(self, samples: Tensor) -> list[Tensor]:
        """Add sound (N,); returns the scores (chunk, K) of the chunks of frames that are now complete."""
        import torch

        self._wave = samples if self._wave is None else torch.cat([self._wave, samples])
        found = []
        while (self._first * self._step + len(self._wave)) // self._step >= self._done + self._chunk + self._right:
            last = (self._done + self._chunk + self._right - self._first) * self._step
            place = self._done - self._first
            found.append(self._scores(self._wave[:last])[place : place + self._chunk])
            self._done += self._chunk
            forget = max(0, self._done - self._left - self._first)
            self._wave = self._wave[forget * self._step :]
            self._first += forget
        return found

    def finish(self) -> list[Tensor]:
        """The rest of the frames, when no more sound comes; the next sound is that of another recording."""
        found = []
        if self._wave is not None and len(self._wave):
            rest = self._scores(self._wave)[self._done - self._first :]
            found = [rest] if len(rest) else []
        self._wave, self._first, self._done = None, 0, 0
        return found


class GrowingText:
    """Greedy labels over chunks of frames: a label that goes on across a border is given once.

    Args:
        blank: its label; negative ones count from the end.
    """

    def __init__(self, blank: int = -1) -> None:
        self._blank, self._before = blank, -1

    def feed(self, scores: Tensor) -> list[int]:
        """The labels that new frames (T, K) add."""
        import torch

        labels = scores.argmax(-1)
        whole = torch.cat([labels.new_tensor([self._before]), labels])
        kept = (whole[1:] != whole[:-1]) & (labels != self._blank % scores.shape[-1])
        self._before = int(whole[-1])
        found: list[int] = labels[kept].tolist()
        return found


class TextStream:
    """The text of sound that still goes on; greedy, so that what was given is never taken back.

    ::

        stream = model.streaming()
        for chunk in microphone:  # (n,) at the model's rate, any n
            print(stream.step(chunk), end="")
        print(stream.finish())

    Args:
        model: that predicts text.
        chunk_seconds: that are recognised at once; the delay is this and ``right_seconds``.
        left_seconds, right_seconds: sound before and behind them that the model sees, too.

    Raises:
        InputError: a number is below what is possible.
    """

    def __init__(
        self, model: SpeechModel, chunk_seconds: float = 1.0, left_seconds: float = 4.0, right_seconds: float = 1.0
    ) -> None:
        self.model, network = model, model.network
        hop = network.preprocessor.featurizer.hop * network.encoder.stride
        frames = [round(s * network.frame_rate) for s in (chunk_seconds, left_seconds, right_seconds)]
        self._scores, self._labels = WindowedScores(self._window, hop, *frames), GrowingText()
        self._last: list[str] = []  # symbols
        self._said: list[str] = []

    def step(self, chunk: Tensor) -> str:
        """Add sound (n,), full scale ±1; returns the text that is new, which may begin with a space."""
        if chunk.dim() != 1 or not chunk.is_floating_point():
            raise InputError(f"sound of shape {tuple(chunk.shape)} and {chunk.dtype}: (n,) of floats is expected")
        return self._add(self._scores.feed(chunk.to(self._device).float()))

    def finish(self) -> str:
        """End the recording: the rest of its text. The next sound is that of another one."""
        new = self._add(self._scores.finish())
        self._labels, self._last, self._said = GrowingText(), [], []
        return new

    @property
    def text(self) -> str:
        """Of the recording so far."""
        return "".join(self._said)

    def _add(self, scores: list[Tensor]) -> str:
        assert self.model.tokenizer is not None
        new = [self.model.symbols[label] for part in scores for label in self._labels.feed(part)]
        join, now = self.model.tokenizer.join, [*self._last, *new]
        text = join(now)[len(join(self._last)) :]
        self._last = now[-_CONTEXT:]
        if not join(self._last):  # separators alone: what they separate belongs to them
            self._last[:0] = next(([one] for one in reversed(now) if join([one])), [])
        self._said += [text] if text else []
        return text

    @property
    def _device(self) -> torch.device:
        return next(self.model.network.parameters()).device

    def _window(self, wave: Tensor) -> Tensor:
        """Log-probabilities (T, V + 1) of a window (N,)."""
        import torch

        length = torch.tensor([len(wave)])
        with torch.inference_mode():
            scores = self.model.network(wave[None], length.to(wave.device)).scores
        return scores[0, : int(self.model.network.output_frames(length))]
