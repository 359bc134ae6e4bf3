"""The recordings of a manifest to text, in batches; long recordings cut at silences and joined."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from speechdlm_ext.asr.base import MIN_SAMPLES, SAMPLE_RATE, Recogniser, Transcript, join_transcripts
from speechdlm_ext.asr.chunks import cut_at_silences
from speechdlm_ext.encoders.chunking import by_halves, group_by_length
from speechdlm_ext.errors import InputError, memory_for, one_line
from speechdlm_ext.io.read_ahead import Reading, read_ahead
from speechdlm_ext.io.recordings import audio_paths
from speechdlm_ext.vad import Detector

_HELD = 600 * SAMPLE_RATE  # samples of a channel that wait to be cut
_FIRST_BATCH = 120.0  # seconds, on a GPU whose memory is not known to suffice for more
_LARGEST_BATCH = 3600.0
_SHARE_OF_MEMORY = 0.6


@dataclass
class Transcribed:
    """What became of one recording.

    Attributes:
        row: of the manifest.
        channels: of each channel what was said.
        error: why it could not be read, in one line.
        seconds: its length.
    """

    row: Mapping[str, Any]
    channels: list[Transcript] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0

    def fields(self) -> dict[str, Any]:
        """``text``, and ``words`` with times where they are known: of one channel, or a list of each channel's."""
        texts = [channel.text for channel in self.channels]
        words = [
            [[word.text, round(word.start, 3), round(word.end, 3)] for word in channel.words]
            for channel in self.channels
        ]
        alone = len(texts) == 1
        found: dict[str, Any] = {"text": texts[0] if alone else texts}
        if any(words):
            found["words"] = words[0] if alone else words
        return found


class BatchSize:
    """How many seconds are recognised at once: what was asked for, or what the device has memory for.

    On a GPU that begins with two minutes; each batch shows how much memory a second takes.

    Args:
        seconds: 0: each chunk alone; None: 0 on a CPU, by free memory on a GPU.
        device: of the recogniser.
    """

    def __init__(self, seconds: float | None, device: torch.device) -> None:
        self._device = device
        self._measured = seconds is None and device.type == "cuda"
        self.seconds = _FIRST_BATCH if self._measured else seconds or 0.0
        self._most = _LARGEST_BATCH

    def run(self, recogniser: Recogniser, chunks: Sequence[torch.Tensor]) -> list[Transcript]:
        """The transcripts of chunks (N_i,), batched by their lengths; halved where memory runs out."""
        found = [Transcript("")] * len(chunks)
        audible = [place for place, chunk in enumerate(chunks) if len(chunk) >= MIN_SAMPLES and chunk.any()]
        sizes = [(len(chunks[place]) / SAMPLE_RATE, 1) for place in audible]
        for group in group_by_length(sizes, self.seconds, padding=0.25):
            places = [audible[number] for number in group]
            for place, transcript in zip(places, self._batch(recogniser, [chunks[p] for p in places]), strict=True):
                found[place] = transcript
        return found

    def _batch(self, recogniser: Recogniser, chunks: Sequence[torch.Tensor]) -> list[Transcript]:
        def work(part: Sequence[torch.Tensor]) -> list[Transcript]:
            lengths = [len(chunk) for chunk in part]
            seconds = len(part) * max(lengths) / SAMPLE_RATE
            what = f"{seconds:.0f} s of sound at once on {self._device}"
            with memory_for(what, "take a smaller --batch-seconds or --asr-chunk-seconds"):
                waves = torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True)
                if not self._measured:
                    return recogniser.transcribe(waves, lengths)
                before = torch.cuda.memory_allocated(self._device)
                torch.cuda.reset_peak_memory_stats(self._device)
                said = recogniser.transcribe(waves, lengths)
                self._grow((torch.cuda.max_memory_allocated(self._device) - before) / seconds)
                return said

        parts = by_halves(chunks, work)
        if len(parts) > 1:
            self._most = self.seconds = max(len(part) for part in parts) * max(map(len, chunks)) / SAMPLE_RATE
        return [transcript for part in parts for transcript in part]

    def _grow(self, bytes_per_second: float) -> None:
        free, _ = torch.cuda.mem_get_info(self._device)
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        self.seconds = min(seconds_that_fit(free + unused, bytes_per_second, self.seconds), self._most)


def seconds_that_fit(free: int, bytes_per_second: float, before: float) -> float:
    """How many seconds of sound the next batch may have.

    Args:
        free: bytes of the device's memory.
        bytes_per_second: that the last batch took, besides the weights.
        before: seconds that the last batch could have; four times as many are the most, for longer chunks can take more
            for a second than shorter ones.
    """
    return min(_SHARE_OF_MEMORY * free / max(bytes_per_second, 1.0), 4 * before)


class _Chunk(NamedTuple):
    recording: Transcribed
    channel: int
    start: float  # seconds
    wave: torch.Tensor


def transcribe_rows(
    rows: Sequence[Mapping[str, Any]],
    recogniser: Recogniser,
    batch: BatchSize,
    detector: Detector | None = None,
    workers: int = 2,
) -> Generator[Transcribed, None, None]:
    """The text of recordings, each as soon as its batch is done; the next batch begins when those have been taken.

    Args:
        rows: of a manifest.
        recogniser: of the words.
        batch: how much is recognised at once; also over several calls.
        detector: finds the silences at which long recordings are cut; without one they are cut where it is quietest.
        workers: threads that read ahead.

    Yields:
        One :class:`Transcribed` for each row, in order as far as batches allow. Close it when it is not used up.

    Raises:
        ShortOfMemory: there is not enough for one chunk.
    """
    waiting: list[_Chunk] = []
    done: list[Transcribed] = []
    parts: dict[int, list[tuple[_Chunk, Transcript]]] = {}

    def recognise() -> Iterator[Transcribed]:
        """All that waits; then the recordings that are complete."""
        good = [chunk for chunk in waiting if chunk.recording.error is None]
        for chunk, said in zip(good, batch.run(recogniser, [chunk.wave for chunk in good]), strict=True):
            parts.setdefault(id(chunk.recording), []).append((chunk, said))
        waiting.clear()
        for one in done:
            _join(one, parts.pop(id(one), []))
            yield one
        done.clear()

    with closing(read_ahead(rows, SAMPLE_RATE, workers)) as readings:
        for reading in readings:
            recording = Transcribed(reading.row)
            chunks = _chunks(reading, recording, recogniser.chunk_seconds, detector)
            while (chunk := _next(chunks, recording)) is not None:
                waiting.append(chunk)
                longest = max(len(one.wave) for one in waiting)
                if len(waiting) * longest > SAMPLE_RATE * max(batch.seconds, _LARGEST_BATCH / 4):
                    yield from recognise()
            recording.seconds = reading.samples / SAMPLE_RATE
            done.append(recording)
            if sum(len(chunk.wave) for chunk in waiting) >= SAMPLE_RATE * batch.seconds:
                yield from recognise()
        yield from recognise()


def _next(chunks: Iterator[_Chunk], recording: Transcribed) -> _Chunk | None:
    """The next chunk; None at the end, or where the recording cannot be read."""
    try:
        return next(chunks, None)
    except (InputError, OSError) as error:
        paths, reason = audio_paths(recording.row), one_line(error)
        recording.error = reason if any(path in reason for path in paths) else f"{paths[0]}: {reason}"
        return None


def _chunks(
    reading: Reading, recording: Transcribed, chunk_seconds: float, detector: Detector | None
) -> Iterator[_Chunk]:
    """The chunks of each channel; ten minutes of sound are held at most."""
    held: list[torch.Tensor] = []
    starts: list[int] = []

    def cut(last: bool) -> Iterator[_Chunk]:
        for channel, wave in enumerate(held):
            long = len(wave) > chunk_seconds * SAMPLE_RATE
            speech = detector.detect(wave[None].numpy(), SAMPLE_RATE)[0] if detector is not None and long else None
            bounds = cut_at_silences(wave.numpy(), SAMPLE_RATE, chunk_seconds, speech)
            for begin, end in bounds if last else bounds[:-1]:
                yield _Chunk(recording, channel, (starts[channel] + begin) / SAMPLE_RATE, wave[begin:end].clone())
            if not last:
                held[channel] = wave[bounds[-1][0] :]
                starts[channel] += bounds[-1][0]

    for block in reading:
        held = [torch.cat(pair) for pair in zip(held, block, strict=True)] if held else list(block)
        starts = starts or [0] * len(held)
        if max(map(len, held)) > _HELD + chunk_seconds * SAMPLE_RATE:
            yield from cut(last=False)
    recording.channels = [Transcript("")] * len(held)
    yield from cut(last=True)


def _join(recording: Transcribed, parts: Sequence[tuple[_Chunk, Transcript]]) -> None:
    for channel in range(len(recording.channels)):
        own = [(said, chunk.start) for chunk, said in parts if chunk.channel == channel]
        recording.channels[channel] = join_transcripts([said for said, _ in own], [start for _, start in own])
