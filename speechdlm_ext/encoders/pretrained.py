"""Encoders that are blocks of a pretrained speech model: batches, long recordings by chunks, streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from speechdlm_ext.encoders.frame_grid import Chunks, FrameGrid, batches
from speechdlm_ext.encoders.normalization import normalized_blocks
from speechdlm_ext.encoders.speech_model import SpeechModel
from speechdlm_ext.errors import InputError, memory_for

Self = TypeVar("Self", bound="PretrainedEncoder")
_BATCH_SECONDS = {False: 60.0, True: 600.0}  # by whether there is a GPU


class PretrainedEncoder:
    """The part that does not depend on the model; see :class:`.hubert.HubertEncoder`, :class:`.wavlm.WavLMEncoder`.

    Args:
        model: the blocks that are needed.
        grid: its frames.
        dim: width D of the features.
        sample_rate: in Hz.
        normalize: whether each channel is brought to mean 0 and variance 1, as a whole, before all else.
        identity: what tells the features apart, with a digest of the weights.
        options: the encoder's options; of these ``chunk_seconds``, ``context_seconds`` and ``batch_seconds`` are used.

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
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.grid = grid
        self.dim = dim
        self.sample_rate = sample_rate
        self.frame_rate = sample_rate / grid.hop
        self.normalize = normalize
        self.device = torch.device("cpu")
        self._identity = identity
        self._options = options
        kept, context = options["chunk_seconds"], options["context_seconds"]
        batch = 1.0 if options["batch_seconds"] is None else options["batch_seconds"]
        if not all(isinstance(length, (int, float)) for length in (kept, context, batch)):
            raise InputError(f"lengths {kept!r}, {context!r}, {batch!r}: numbers of seconds are wanted")
        if not (0.1 <= kept <= 86400 and 0 <= context <= 3600 and 0 < batch <= 1e6):
            raise InputError(
                f"chunk_seconds {kept:g}, context_seconds {context:g}, batch_seconds {batch:g}: at least 0.1 s of "
                "chunk, and no negative length, are wanted"
            )
        self.chunks = Chunks(max(1, round(kept * self.frame_rate)), round(context * self.frame_rate))

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build the same encoder again."""
        return dict(self._options)

    @property
    def identity(self) -> dict[str, Any]:
        """What the features depend on; chunks, batches, device and precision change them but little."""
        return dict(self._identity)

    def to(self: Self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Compute on ``device`` from now on, in float32, bfloat16 or float16 (None keeps what it is).

        Raises:
            InputError: there is no such device, or the type is none of these.
        """
        dtype = dtype or self.model.dtype
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise InputError(f"{dtype}: float32, bfloat16 or float16 is wanted")
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
        """Features (T, D), float32, of one channel (N,) at ``sample_rate`` Hz.

        Raises:
            InputError: the rate is not the encoder's, a sample is not a finite number, or there is no whole frame.
        """
        if sample_rate != self.sample_rate:
            raise InputError(
                f"sound at {sample_rate} Hz, the {self.name} encoder takes {self.sample_rate} Hz: resample it"
            )
        return self.encode_batch([wave])[0]

    @torch.no_grad()
    def encode_batch(self, waves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Features (T_i, D), float32 on the CPU, of each of several channels (N_i,) at the encoder's rate.

        Each is what it would be alone, up to rounding. Those longer than a chunk are cut up, and what is computed at
        once, padding included, is not more than ``batch_seconds`` of sound, or one window. It bounds the memory: a
        minute of sound takes HuBERT base about 0.8 GB. Several minutes at once keep a GPU busier; a CPU is as fast
        with less.

        Raises:
            InputError: as :meth:`encode`; of several sounds it tells which.
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
        features = self._compute(pieces)
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
        """Pieces (C, t, D) of what :meth:`encode_blocks` gives; no more sound is held than one window.

        Where the sound is normalized, all of it must have come first; what is long waits in a temporary file.

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
        return torch.stack([features[begin:end] for features in self._compute(list(sound))])

    @torch.no_grad()
    def _compute(self, sounds: list[torch.Tensor]) -> list[torch.Tensor]:
        """Features of prepared sounds, in batches of about equal length."""
        results: dict[int, torch.Tensor] = {}
        lengths = [len(sound) for sound in sounds]
        seconds = self._options["batch_seconds"] or _BATCH_SECONDS[self.device.type == "cuda"]
        for batch in batches(lengths, round(seconds * self.sample_rate)):
            longest = lengths[batch[0]]
            what = f"{len(batch) * longest / self.sample_rate:.0f} s of sound at once on {self.device}"
            option = "batch_seconds" if len(batch) > 1 else "chunk_seconds"
            with memory_for(what, f"give the {self.name} encoder a smaller {option} (--encoder-options)"):
                padded = torch.zeros(len(batch), longest, device=self.device)
                for row, number in enumerate(batch):
                    padded[row, : lengths[number]] = sounds[number]
                features = self.model(padded, [lengths[number] for number in batch]).float().cpu()
            for row, number in enumerate(batch):
                results[number] = features[row, : self.grid.padded_frames(lengths[number])]
        return [results[number] for number in range(len(sounds))]

    def _check(self, wave: torch.Tensor, what: str, dims: int = 1) -> None:
        if wave.dim() != dims or not wave.is_floating_point():
            wanted = "one channel (N,)" if dims == 1 else "channels (C, n)"
            found = f"shape {tuple(wave.shape)} and {wave.dtype}"
            raise InputError(f"{what}: {wanted} of sound with full scale at ±1 is wanted, found {found}")
        if not bool(torch.isfinite(wave).all()):
            raise InputError(f"{what} has a sample that is not a finite number")

    def _too_short(self, samples: int, what: str) -> str:
        shortest = self.grid.shortest
        return f"{what} of {samples} samples is shorter than one frame: {shortest} samples are needed " + (
            f"({1000 * shortest / self.sample_rate:g} ms)"
        )

    def _prepare(self, wave: torch.Tensor) -> torch.Tensor:
        sound = wave.to(self.device, torch.float32)
        if self.normalize:
            sound = torch.nn.functional.layer_norm(sound, sound.shape)
        return torch.nn.functional.pad(sound, (self.grid.padding, self.grid.padding))

    def _padded(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The blocks, checked, normalized where that is wanted, with the zeros of the grid at both ends."""
        checked = self._checked(blocks)
        zeros = None
        for block in normalized_blocks(checked) if self.normalize else checked:
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
