"""A manifest to a unit file: the right units, and the same file however often it was interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.errors import InputError, ShortOfMemory, memory_for
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.speeds import with_speeds
from speechdlm_ext.units import Codebook, DPDPQuantizer
from speechdlm_ext.units.encoding import encode_recordings, encode_rows
from speechdlm_ext.units.feature_dump import dump_features
from speechdlm_ext.units.files import expand_durations, parse_units, read_unit_file


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    centroids = torch.randn(30, 40, generator=torch.Generator().manual_seed(5)) * 15 - 25
    return Codebook(centroids, "logmel", {}, 50.0)


@pytest.fixture
def rows(tmp_path: Path, data: Path) -> list[dict[str, Any]]:
    """Six pieces of a call, as recordings of their own; the last at another rate."""
    wave, rate = read_audio(data / "speech" / "calls" / "google_two_channel.flac")
    made = []
    for number in range(6):
        path = tmp_path / f"call {number}.wav"
        piece = wave[:, number * 16000 : (number + 1) * 16000 + number * 100]
        own = 8000 if number == 5 else rate
        soundfile.write(path, piece.numpy().T, own)
        seconds = piece.shape[1] / own
        made.append({"id": f"call-{number}", "audio_filepath": str(path), "channels": 2, "duration": seconds})
    return made


def test_units_are_the_nearest_centroids_of_each_channel(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    results = encode_recordings(rows, codebook, tmp_path / "units.jsonl", say=quiet)
    assert read_unit_file(tmp_path / "units.jsonl") == results
    assert not list(tmp_path.glob("units.jsonl.*"))
    for row, result in zip(rows, results, strict=True):
        wave, _ = read_audio(row["audio_filepath"], 16000)
        for name, channel in zip(("unitA", "unitB"), wave, strict=True):
            features = LogMelEncoder().encode(channel, 16000).double()
            nearest = ((features[:, None] - codebook.centroids.double()[None]) ** 2).sum(dim=2).argmin(dim=1)
            units = torch.tensor(parse_units(result[name]))
            assert len(units) == wave.shape[1] // 320
            assert float((units == nearest).float().mean()) > 0.99
        assert (result["audio"], result["codebook"], result["frame_rate"]) == (row["id"], codebook.fingerprint, 50.0)


class Stop(Exception):
    """Stands for a kill."""


def test_other_speeds_move_pitch_and_tempo(tmp_path: Path) -> None:
    """A tone of 1000 Hz for 2 s, 1.25 times as fast, is encoded like one of 1250 Hz for 1.6 s."""
    made = []
    for name, hertz, seconds in (("slow", 1000, 2.0), ("fast", 1250, 1.6)):
        time = torch.arange(int(16000 * seconds)) / 16000
        soundfile.write(tmp_path / f"{name}.wav", (0.3 * torch.sin(2 * torch.pi * hertz * time)).numpy(), 16000)
        made.append({"id": name, "audio_filepath": str(tmp_path / f"{name}.wav"), "channels": 1, "duration": seconds})
    second = 2 * torch.pi * torch.arange(16000) / 16000
    centroids = torch.stack([LogMelEncoder().encode(torch.sin(f * second), 16000)[20] for f in range(800, 1600, 50)])
    tones = Codebook(centroids, "logmel", {}, 50.0)
    rows = with_speeds(made, [1.25, 1])
    assert [row["id"] for row in rows] == ["slow", "fast", "slow-speed1.25", "fast-speed1.25"]
    slow, fast, copy, _ = encode_recordings(rows, tones, tmp_path / "units.jsonl", say=quiet)
    assert (copy["copy_of"], copy["speed"]) == ("slow", 1.25) and "copy_of" not in slow
    expected, found = parse_units(fast["unitA"]), parse_units(copy["unitA"])
    assert abs(len(expected) - len(found)) <= 1 and found[5:70] == expected[5:70] != parse_units(slow["unitA"])[5:70]
    with pytest.raises(InputError, match="between 0.5 and 2"):
        with_speeds(made, [3])
    with pytest.raises(InputError, match="fast-speed0.9 is the id of another recording"):
        with_speeds([*made, {**made[0], "id": "fast-speed0.9"}], [0.9])


def stopping_after(count: int) -> Any:
    def progress(items: Iterable[Any], seconds: float) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == count:
                raise Stop
            yield item

    return progress


def test_stopped_and_started_again_gives_the_same_bytes(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    encode_recordings(rows, codebook, tmp_path / "whole.jsonl", say=quiet)
    output, partial = tmp_path / "units.jsonl", tmp_path / "units.jsonl.partial"
    for count in (2, 1):
        with pytest.raises(Stop):
            encode_recordings(rows, codebook, output, progress=stopping_after(count), say=quiet)
        assert not output.exists() and partial.exists()
    # A kill in the middle of writing a line, and one before its end.
    content = partial.read_bytes()
    partial.write_bytes(content[:-1])
    with pytest.raises(Stop):
        encode_recordings(rows, codebook, output, progress=stopping_after(1), say=quiet)
    assert partial.read_bytes() == content
    partial.write_bytes(content + content.splitlines()[-1][:40])
    done = []
    encode_recordings(
        rows, codebook, output, progress=lambda items, _: (done.append(i.row["id"]) or i for i in items), say=quiet
    )
    assert done == ["call-3", "call-4", "call-5"]
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes() and not partial.exists()


def test_partial_result_of_another_codebook_is_not_mixed_in(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    output = tmp_path / "units.jsonl"
    with pytest.raises(Stop):
        encode_recordings(rows, codebook, output, progress=stopping_after(3), say=quiet)
    other = Codebook(codebook.centroids.flip(0), "logmel", {}, 50.0)
    said: list[str] = []
    results = encode_recordings(rows, other, output, say=said.append)
    assert any("another codebook" in line for line in said)
    assert {result["codebook"] for result in results} == {other.fingerprint}
    encode_recordings(rows, other, tmp_path / "whole.jsonl", say=quiet)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_changed_recording_is_encoded_again(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    output = tmp_path / "units.jsonl"
    with pytest.raises(Stop):
        encode_recordings(rows, codebook, output, progress=stopping_after(3), say=quiet)
    soundfile.write(rows[1]["audio_filepath"], torch.zeros(16000, 2).numpy(), 16000)
    results = encode_recordings(rows, codebook, output, say=quiet)
    assert len(set(parse_units(results[1]["unitA"]))) == 1


def test_whole_result_is_kept_or_refused(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    output = tmp_path / "units.jsonl"
    results = encode_recordings(rows, codebook, output, say=quiet)
    before = output.stat().st_mtime_ns
    said: list[str] = []
    left = tmp_path / "units.jsonl.partial"  # by a run that was killed after its output was there
    left.write_text('{"settings": null}\n')
    assert encode_recordings(rows, codebook, output, say=said.append) == results
    assert output.stat().st_mtime_ns == before and "complete already" in said[0] and not left.exists()
    with pytest.raises(InputError, match="other recordings.*--overwrite"):
        encode_recordings(rows[:4], codebook, output, say=quiet)
    other = Codebook(codebook.centroids.flip(0), "logmel", {}, 50.0)
    with pytest.raises(InputError, match="another codebook.*--overwrite"):
        encode_recordings(rows, other, output, say=quiet)
    assert len(encode_recordings(rows[:4], other, output, overwrite=True, say=quiet)) == 4


def test_whole_result_of_recordings_that_have_changed_since_is_refused(
    tmp_path: Path, rows: list, codebook: Codebook
) -> None:
    output = tmp_path / "units.jsonl"
    Path(rows[2]["audio_filepath"]).write_text("no sound")
    encode_recordings(rows, codebook, output, say=quiet)
    said: list[str] = []
    encode_recordings(rows, codebook, output, say=said.append)
    assert "without 1 that" in said[-1]
    later = output.stat().st_mtime + 5
    soundfile.write(rows[2]["audio_filepath"], torch.zeros(16000, 2).numpy(), 16000)
    os.utime(rows[2]["audio_filepath"], (later, later))
    with pytest.raises(InputError, match="1 of its 6 recordings have changed since.*call 2.wav.*--overwrite"):
        encode_recordings(rows, codebook, output, say=quiet)
    assert len(encode_recordings(rows, codebook, output, overwrite=True, say=quiet)) == 6


def test_units_of_another_precision_are_told_apart(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    output = tmp_path / "units.jsonl"
    results = encode_recordings(rows, codebook, output, say=quiet, settings={"dtype": "bfloat16"})
    assert {row["dtype"] for row in results} == {"bfloat16"}
    with pytest.raises(InputError, match="another dtype.*--overwrite"):
        encode_recordings(rows, codebook, output, say=quiet)


def test_bad_recording_costs_a_line(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    Path(rows[2]["audio_filepath"]).write_text("no sound")
    said: list[str] = []
    results = encode_recordings(rows, codebook, tmp_path / "units.jsonl", say=said.append)
    assert [result["audio"] for result in results] == [f"call-{number}" for number in (0, 1, 3, 4, 5)]
    assert any("not audio" in line for line in said)
    assert "not audio" in (tmp_path / "units.jsonl.errors").read_text()
    # Done again with the same bad file there is nothing to do.
    assert encode_recordings(rows, codebook, tmp_path / "units.jsonl", say=quiet) == results
    with pytest.raises(InputError, match="none of 1 recordings"):
        encode_recordings(rows[2:3], codebook, tmp_path / "none.jsonl", say=quiet)
    assert not (tmp_path / "none.jsonl").exists()


def test_second_run_at_the_same_time_is_refused(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    def meanwhile(items: Iterable[Any], seconds: float) -> Iterator[Any]:
        with pytest.raises(InputError, match="another run is at work"):
            encode_recordings(rows, codebook, tmp_path / "units.jsonl", say=quiet)
        yield from items

    assert len(encode_recordings(rows, codebook, tmp_path / "units.jsonl", progress=meanwhile, say=quiet)) == 6


class Batches(LogMelEncoder):
    """The log-mel encoder, keeping account of what it encodes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []

    def encode_batch(self, waves, batch_seconds=None):
        self.batches.append([len(wave) for wave in waves])
        return super().encode_batch(waves)

    def stream(self, blocks):
        features = super().stream(blocks)
        for piece in features:  # in pieces, as encoders of long recordings give them
            yield from piece.split(7, dim=1)


def by_id(results: Iterable[Any]) -> dict[str, Any]:
    return {result.row["id"]: result for result in results}


@pytest.mark.parametrize("penalty", [0.0, 800.0])
def test_alone_or_together_the_units_are_the_same(rows: list, codebook: Codebook, penalty: float) -> None:
    """Alone, in batches, and by hand; a manifest that is a little wrong about lengths makes no more padding."""
    quantizer = DPDPQuantizer(codebook, penalty)
    wrong = [{**row, "duration": row["duration"] + 0.09 * (number % 2)} for number, row in enumerate(rows)]
    for made_by in (quantizer, codebook) if penalty == 0 else (quantizer,):
        encoder = Batches()
        alone = list(encode_rows(rows, encoder, made_by))
        assert [result.row["id"] for result in alone] == [row["id"] for row in rows] and not encoder.batches
        for given in (rows, wrong):
            encoder = Batches()
            together = by_id(encode_rows(given, encoder, made_by, batch_seconds=5.0))
            assert sum(map(len, encoder.batches)) >= 2 * len(rows) - 4  # what is left over may be alone
            for batch in encoder.batches:
                assert len(batch) * max(batch) <= 5 * 16000
                assert len(batch) * max(batch) - sum(batch) < 0.1 * len(batch) * max(batch)
            for result in alone:
                same = together[result.row["id"]]
                wave, _ = read_audio(result.row["audio_filepath"], 16000)
                assert result.seconds == same.seconds == wave.shape[1] / 16000
                assert result.frames == same.frames == wave.shape[1] // 320
                for number, channel in enumerate(wave):
                    features = LogMelEncoder().encode(channel, 16000)
                    assert torch.equal(result.units[number], quantizer.quantize(features))
                    assert torch.equal(result.units[number], same.units[number])


def test_deduplicated_units_with_their_durations_are_the_frames(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    plain = encode_recordings(rows, codebook, tmp_path / "plain.jsonl", say=quiet)
    runs = encode_recordings(rows, codebook, tmp_path / "runs.jsonl", deduplicate=True, say=quiet)
    for row, whole in zip(runs, plain, strict=True):
        for name in ("unitA", "unitB"):
            units, durations = (parse_units(row[key]) for key in (name, f"{name}.durations"))
            assert len(units) == len(durations) < len(parse_units(whole[name]))
            assert min(durations) >= 1 and all(a != b for a, b in zip(units, units[1:], strict=False))
        assert expand_durations(row) == whole == expand_durations(whole)
    with pytest.raises(InputError, match="exists already, deduplicated: pass --overwrite"):
        encode_recordings(rows, codebook, tmp_path / "runs.jsonl", say=quiet)


def test_penalty_is_kept_with_the_units_and_not_mixed(tmp_path: Path, rows: list, codebook: Codebook) -> None:
    output, quantizer = tmp_path / "units.jsonl", DPDPQuantizer(codebook, 300.0, 5)
    with pytest.raises(Stop):
        encode_recordings(rows, codebook, output, progress=stopping_after(2), say=quiet)
    said: list[str] = []
    made = encode_recordings(rows, codebook, output, quantizer=quantizer, say=said.append)
    assert any("other settings, starting over" in line for line in said)
    assert {(row["duration_penalty"], row["num_neighbors"]) for row in made} == {(300.0, 5)}
    assert encode_recordings(rows, codebook, output, quantizer=quantizer, say=quiet) == made
    for other in (None, DPDPQuantizer(codebook, 300.0, 6), DPDPQuantizer(codebook, 301.0, 5)):
        with pytest.raises(InputError, match="made with another (duration_penalty|num_neighbors): pass --overwrite"):
            encode_recordings(rows, codebook, output, quantizer=other, say=quiet)


def test_one_bad_recording_of_a_batch_is_left_out(rows: list, codebook: Codebook) -> None:
    """Too short for a frame, not there, and features that the quantizer refuses: the others of the batch are done."""
    soundfile.write(rows[1]["audio_filepath"], torch.zeros(160, 2).numpy(), 16000)
    rows[1]["duration"] = 0.01
    rows[2]["audio_filepath"] += ".gone"

    class Odd(LogMelEncoder):
        def encode_batch(self, waves, batch_seconds=None):
            made = zip(waves, super().encode_batch(waves), strict=True)
            return [features * (float("nan") if len(wave) == 16300 else 1) for wave, features in made]

    for batch_seconds, odd in ((0.0, False), (20.0, True)):
        encoded = encode_rows(rows, Odd(), codebook, batch_seconds=batch_seconds)
        errors = {name: result.error for name, result in by_id(encoded).items() if result.error}
        assert errors.keys() == {"call-1", "call-2"} | ({"call-3"} if odd else set())
        assert "call 1.wav: sound shorter than one frame of 20 ms" in errors["call-1"]
        assert "call 2.wav.gone: no such file" in errors["call-2"]
        assert not odd or ("call 3.wav" in errors["call-3"] and "not finite" in errors["call-3"])


def test_an_encoder_that_breaks_is_no_fault_of_the_recording(rows: list, codebook: Codebook) -> None:
    class Broken(LogMelEncoder):
        def stream(self, blocks):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(encode_rows(rows, Broken(), codebook))


class Watching(LogMelEncoder):
    """Notes, whenever a forward pass begins, what a kill at that moment would leave: the file as it is on the disk."""

    def __init__(self, partial: Path, device: str) -> None:
        super().__init__()
        self.partial, self.device = partial, torch.device(device)
        self.kept: list[int] = []

    def encode_blocks(self, blocks):
        self.kept.append(self.partial.read_bytes().count(b"\n") - 1)
        return super().encode_blocks(blocks)

    def encode_batch(self, waves, batch_seconds=None):
        self.kept.append(self.partial.read_bytes().count(b"\n") - 1)
        return [super(Watching, self).encode_blocks([wave[None].cpu()])[0] for wave in waves]


class Slow(DPDPQuantizer):
    """Takes its time, so that an encoder that does not wait for it is ahead."""

    def search(self):
        time.sleep(0.05)
        return super().search()


@pytest.mark.parametrize(
    ("device", "batch_seconds", "kept"),
    [
        # On a CPU, all that was encoded is kept before the next forward pass begins: one recording, or batch, is lost.
        ("cpu", 0.0, [0, 1, 2, 3, 4, 5]),
        ("cpu", 4.5, [0, 1, 3, 5]),  # the longest first, alone
        # On a GPU the next one is encoded while one is quantized: these two are in hand, and no third.
        ("cuda", 0.0, [0, 0, 1, 2, 3, 4]),
    ],
)
def test_a_kill_at_the_worst_moment_costs_what_is_in_hand(
    tmp_path: Path, rows: list, codebook: Codebook, device: str, batch_seconds: float, kept: list[int]
) -> None:
    encoder = Watching(tmp_path / "units.jsonl.partial", device)
    made = encode_recordings(
        rows,
        codebook,
        tmp_path / "units.jsonl",
        say=quiet,
        encoder=encoder,
        quantizer=Slow(codebook, 300.0),
        batch_seconds=batch_seconds,
    )
    assert len(made) == len(rows)
    if device == "cpu":
        assert encoder.kept == kept
    else:
        assert len(encoder.kept) == len(kept) and all(a >= b for a, b in zip(encoder.kept, kept, strict=True))


class Short(LogMelEncoder):
    """Has no memory for a recording, as allocators say it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def stream(self, blocks):
        with memory_for("60 s of sound at once on cpu", "give the encoder a smaller chunk_seconds"):
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_too_little_memory_is_no_fault_of_the_recording(
    tmp_path: Path, rows: list, codebook: Codebook, error: Exception
) -> None:
    """It ends the run with a line that says what to do, instead of leaving the recording out, of units or features."""
    message = "not enough memory for 60 s of sound at once on cpu: give the encoder a smaller chunk_seconds"
    for work in (
        lambda: encode_recordings(rows, codebook, tmp_path / "u.jsonl", say=quiet, encoder=Short(error)),
        lambda: dump_features(rows, Short(error), tmp_path / "f.npy", 1.0, 1, say=quiet),
    ):
        with pytest.raises(ShortOfMemory, match=message):
            work()
    assert not (tmp_path / "u.jsonl.errors").exists()
    with pytest.raises(ZeroDivisionError):
        list(encode_rows(rows, Short(ZeroDivisionError()), codebook))
