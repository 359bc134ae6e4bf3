"""Encoders that are blocks of a pretrained speech model: exact batches, long recordings by windows, streams.

HuBERT and WavLM have convolutions over sound, positions by a convolution, and transformer blocks in common. A batch of
sounds of different lengths gives what each gives alone. Three things would prevent that and are taken care of: the
first layer's group norm averages over time, the positions' batch norm turns the zeros of padding into something else,
and attention looks at padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from speechdlm_ext.encoders.chunking import (
    Chunks,
    FrameGrid,
    by_halves,
    group_by_length,
    normalized_blocks,
    to_device,
)
from speechdlm_ext.errors import InputError, memory_for
from speechdlm_ext.io.audio import RESAMPLER
from speechdlm_ext.modules.padding import frame_mask

Stage = tuple[nn.Conv1d, "nn.Module | None"]


class SpeechModel(nn.Module):
    """The blocks that are needed of a speech model; what differs between models is in the methods below.

    Attributes:
        stages: the convolutions over the sound, each with its norm.
        dtype: what all but the first convolution computes in; that one, and its norm, stay in float32, because
            sound in bfloat16 would have noise 50 dB below it.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        # The modules themselves belong to the subclass, under their published names.
        self.stages = tuple(stages)
        self.dtype = torch.float32

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Norm and projection of the convolutions' output (B, T, C) to the blocks' width (B, T, D)."""
        raise NotImplementedError

    def positions(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """What is added for positions (B, T, D); ``padding`` (B, T) is true beyond the end."""
        raise NotImplementedError

    def transform(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """The blocks' output (B, T, D) for their input (B, T, D)."""
        raise NotImplementedError

    def compute_in(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move there, and compute in ``dtype`` from now on."""
        self.to(device=device, dtype=dtype)
        for module in self.stages[0]:
            if module is not None:
                module.float()
        self.dtype = dtype

    def forward(self, waves: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Features (B, T, D) of sounds (B, N), of which ``lengths`` samples count; beyond their frames, anything."""
        x, frames = self._convolve(waves, lengths)
        x = self.project(x)
        padding = None
        if min(frames) < x.shape[1]:
            counts = to_device(torch.tensor(frames), x.device)
            padding = ~frame_mask(counts, x.shape[1])
            x = x.masked_fill(padding[..., None], 0)
        return self.transform(x + self.positions(x, padding), padding)

    def _convolve(self, waves: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """The convolutions' output (B, T, C), and how many of the frames are of each sound."""
        x, frames = waves[:, None], list(lengths)
        for conv, norm in self.stages:
            x = conv(x)
            frames = [(length - conv.kernel_size[0]) // conv.stride[0] + 1 for length in frames]
            if isinstance(norm, nn.GroupNorm) and min(frames) < x.shape[2]:
                # One by one: the largest tensor there is, which masked means would need several copies of.
                for sound, length in zip(x, frames, strict=True):
                    sound[:, :length] = norm(sound[None, :, :length])[0]
            elif norm is not None:
                x = norm(x)
            x = nn.functional.gelu(x).to(self.dtype)
        return x.transpose(1, 2), frames


Self = TypeVar("Self", bound="PretrainedEncoder")


def default_batch_seconds(device: torch.device) -> float:
    """How much sound is computed at once, in seconds, where nothing else is said."""
    return 60.0 if device.type == "cpu" else 480.0


class PretrainedEncoder:
    """The part that does not depend on the model; see :class:`.hubert.HubertEncoder`, :class:`.wavlm.WavLMEncoder`.

    Args:
        model: the blocks that are needed.
        grid: its frames.
        dim: width D of the features.
        sample_rate: in Hz.
        normalize: whether each channel is brought to mean 0 and variance 1, as a whole, before all else.
        identity: what tells the features apart, with a digest of the weights.
        options: the encoder's options; of these ``chunk_seconds`` and ``context_seconds`` are used.
        eps: added to the variance where sound is normalized; by default torch's, as fairseq has it.

    Raises:
        InputError: a length is out of its range.
    """

    name: str

    def __init__(
        self,
        model: SpeechModel,
        grid: FrameGrid,
        dim: int,
        sample_rate: int,
        normalize: bool,
        identity: dict[str, Any],
        options: dict[str, Any],
        eps: float = 1e-5,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.grid = grid
        self.dim = dim
        self.sample_rate = sample_rate
        self.frame_rate = sample_rate / grid.hop
        self.normalize, self._eps = normalize, eps
        self.device = torch.device("cpu")
        self._identity = identity
        self._options = options
        kept, context = options["chunk_seconds"], options["context_seconds"]
        if not all(isinstance(length, (int, float)) for length in (kept, context)):
            raise InputError(f"chunk_seconds {kept!r}, context_seconds {context!r}: numbers of seconds are expected")
        if not (0.1 <= kept <= 86400 and 0 <= context <= 3600):
            raise InputError(
                f"chunk_seconds {kept:g}, context_seconds {context:g}: at least 0.1 s of chunk, and no negative "
                "context, are expected"
            )
        self.chunks = Chunks(max(1, round(kept * self.frame_rate)), round(context * self.frame_rate))

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build the same encoder again."""
        return dict(self._options)

    @property
    def identity(self) -> dict[str, Any]:
        """What the features depend on; chunks, batches, device and precision change them but little."""
        return {**self._identity, "resampler": RESAMPLER}

    def to(self: Self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Compute on ``device`` from now on, in float32, bfloat16 or float16 (None keeps what it is).

        Raises:
            InputError: there is no such device, or the type is none of these.
        """
        dtype = dtype or self.model.dtype
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise InputError(f"{dtype}: float32, bfloat16 or float16 is expected")
        try:
            self.device = torch.device(device)
            self.model.compute_in(self.device, dtype)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device!s}: {str(error).splitlines()[0]}") from None
        return self

    def frames(self, samples: int) -> int:
        """The number of frames T of ``samples`` samples, exactly; 0 where they are too few for one."""
        return self.grid.frames(samples)

    def encode(self, wave: torch.Tensor, sample_rate: int) -> torch.Tensor:
        """Features (T, D), float32, on the encoder's device, of one channel (N,) at ``sample_rate`` Hz.

        Raises:
            InputError: the rate is not the encoder's, a sample is not a finite number, or there is no whole frame.
        """
        if sample_rate != self.sample_rate:
            raise InputError(
                f"sound at {sample_rate} Hz, the {self.name} encoder takes {self.sample_rate} Hz: resample it"
            )
        return self.encode_batch([wave])[0]

    @torch.no_grad()
    def encode_batch(self, waves: Sequence[torch.Tensor], batch_seconds: float | None = None) -> list[torch.Tensor]:
        """Features (T_i, D), float32, on the encoder's device, of each of several channels (N_i,) at its sample rate.

        Each is what it would be alone, up to rounding. Those longer than a chunk are cut up, and what is computed at
        once, padding included, is not more than ``batch_seconds`` of sound, or one window; where that does not fit into
        memory, half of it. Nothing here waits for a GPU.

        Args:
            waves: on the host, or on the encoder's device.
            batch_seconds: bounds the memory: a minute takes HuBERT base about 0.8 GB. By default 60 s on a CPU, which
                is as fast with less, and 480 s on a GPU.

        Raises:
            InputError: as :meth:`encode`, naming one of several sounds; samples on a GPU are not looked at: features
                are not finite where they are not, which quantizers refuse.
            ShortOfMemory: there is not enough for one window.
        """
        for number, wave in enumerate(waves):
            self._check(wave, "sound" if len(waves) == 1 else f"sound {number}")
            if not self.grid.frames(len(wave)):
                raise InputError(self._too_short(len(wave), "sound" if len(waves) == 1 else f"sound {number}"))
        pieces: list[torch.Tensor] = []
        places = []
        for number, wave in enumerate(waves):
            sound = self._prepare(wave)
            frames = self.grid.padded_frames(len(sound))
            for window in self.chunks.windows(frames):
                stop = len(sound) if window.stop == frames else (window.stop - 1) * self.grid.hop + self.grid.reach
                pieces.append(sound[window.first * self.grid.hop : stop])
                places.append((number, window))
        results: list[list[torch.Tensor]] = [[] for _ in waves]
        features = self._compute(pieces, batch_seconds or default_batch_seconds(self.device))
        for (number, window), piece in zip(places, features, strict=True):
            results[number].append(piece[window.begin - window.first : window.end - window.first])
        return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in results]

    def encode_blocks(self, blocks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Features (C, T, D) of a stream of blocks (C, n) at the encoder's rate, the same however the stream is cut.

        Raises:
            InputError: a sample is not a finite number, or there is no whole frame.
        """
        return torch.cat(list(self.stream(blocks)), dim=1)

    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Pieces (C, t, D), on the encoder's device, of what :meth:`encode_blocks` gives; one window is held at a time.

        Where the sound is normalized, all of it is read first; what is long waits in a temporary file.

        Raises:
            InputError: as :meth:`encode_blocks`.
        """
        held: list[torch.Tensor] = []
        samples, origin, begin = 0, 0, 0  # samples held, and the frames where they and the next window begin
        for block in self._padded(blocks):
            held.append(block)
            samples += block.shape[1]
            while self.chunks.ready(origin + self.grid.padded_frames(samples) - begin):
                sound = torch.cat(held, dim=1)
                window = self.chunks.at(begin)
                stop = (window.stop - origin - 1) * self.grid.hop + self.grid.reach
                yield self._channels(sound[:, :stop], window.begin - origin, window.end - origin)
                begin = window.end
                first = self.chunks.before(begin)
                held = [sound[:, (first - origin) * self.grid.hop :]]
                samples, origin = held[0].shape[1], first
        frames = origin + self.grid.padded_frames(samples)
        if frames <= begin:
            raise InputError(self._too_short(max(0, samples - 2 * self.grid.padding), "sound"))
        yield self._channels(torch.cat(held, dim=1), begin - origin, frames - origin)

    def _channels(self, sound: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """Frames ``begin`` to ``end`` of a window's channels (C, n), as (C, t, D)."""
        features = self._compute(list(sound), len(sound) * sound.shape[1] / self.sample_rate)
        return torch.stack([channel[begin:end] for channel in features])

    @torch.no_grad()
    def _compute(self, sounds: list[torch.Tensor], batch_seconds: float) -> list[torch.Tensor]:
        """Features of prepared sounds, in batches of about equal length."""
        results: dict[int, torch.Tensor] = {}
        sizes = [(float(len(sound)), 1) for sound in sounds]
        for batch in group_by_length(sizes, batch_seconds * self.sample_rate, padding=1.0):
            for part in by_halves(batch, lambda places: self._features({place: sounds[place] for place in places})):
                results |= part
        return [results[number] for number in range(len(sounds))]

    def _features(self, sounds: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """Features (T_i, D) of a batch of prepared sounds, by the same numbers."""
        lengths = [len(sound) for sound in sounds.values()]
        first = next(iter(sounds.values()))
        what = f"{len(sounds) * max(lengths) / self.sample_rate:.0f} s of sound at once on {self.device}"
        with memory_for(what, f"give the {self.name} encoder a smaller chunk_seconds (--encoder-options)"):
            pinned = self.device.type == "cuda" and first.device.type == "cpu"
            padded = torch.zeros(len(sounds), max(lengths), device=first.device, pin_memory=pinned)
            for row, sound in zip(padded, sounds.values(), strict=True):
                row[: len(sound)] = sound
            features = self.model(to_device(padded, self.device), lengths).float()
        return {number: features[row, : self.grid.padded_frames(lengths[row])] for row, number in enumerate(sounds)}

    def _check(self, wave: torch.Tensor, what: str, dims: int = 1) -> None:
        if wave.dim() != dims or not wave.is_floating_point():
            expected = "one channel (N,)" if dims == 1 else "channels (C, n)"
            found = f"shape {tuple(wave.shape)} and {wave.dtype}"
            raise InputError(f"{what}: {expected} of sound with full scale at ±1 is expected, found {found}")
        if wave.device.type == "cpu" and not np.isfinite(wave.detach().float().numpy()).all():
            raise InputError(f"{what} has a sample that is not a finite number")

    def _too_short(self, samples: int, what: str) -> str:
        shortest = self.grid.shortest
        return f"{what} of {samples} samples is shorter than one frame: {shortest} samples are needed " + (
            f"({1000 * shortest / self.sample_rate:g} ms)"
        )

    def _prepare(self, wave: torch.Tensor) -> torch.Tensor:
        sound = wave.detach().float()
        if self.normalize:
            sound = torch.nn.functional.layer_norm(sound, sound.shape, eps=self._eps)
        return torch.nn.functional.pad(sound, (self.grid.padding, self.grid.padding))

    def _padded(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The blocks, checked, normalized where the model asks for it, with the zeros of the grid at both ends."""
        checked = self._checked(blocks)
        zeros = None
        for block in normalized_blocks(checked, self._eps) if self.normalize else checked:
            if zeros is None:
                zeros = block.new_zeros(block.shape[0], self.grid.padding)
                yield zeros
            yield block
        if zeros is not None:
            yield zeros

    def _checked(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for block in blocks:
            self._check(block, "sound", dims=2)
            yield block.to("cpu", torch.float32)
