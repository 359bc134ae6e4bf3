"""Recordings to units and back to sound, file by file, so that it can be stopped and started again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.encoders.logmel import LevelMeter, LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info
from speechdlm_ext.io.locking import exclusive, open_locked
from speechdlm_ext.io.manifest import Chosen, NumbersOnDisk, temporary_tables, write_jsonl
from speechdlm_ext.io.naming import storable
from speechdlm_ext.io.output_paths import MirrorPaths
from speechdlm_ext.io.recordings import audio_paths, left_to_do, recording_stamp
from speechdlm_ext.io.resume_log import ResumeLog, read_resume_log
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.units.encoding import Encoded, encode_rows, unit_facts
from speechdlm_ext.units.pipeline import UnitPipeline
from speechdlm_ext.vocoders.base import Utterance, UtteranceVocoder, Vocoder
from speechdlm_ext.vocoders.durations import predict_frames
from speechdlm_ext.vocoders.sound_files import SoundWriter, is_made
from speechdlm_ext.vocoders.synthesize import make_sounds

JOURNAL = ".resynthesized"
_FRAMES = 50  # a second, in which levels are measured
_BLOCK_SECONDS = 60
_HIGHEST_PEAK = 0.99  # re full scale


@dataclass
class Resynthesis:
    """What became of the recordings.

    Attributes:
        rows: those whose wav files are there now.
        files: of a row: its wav files, one for each sample.
        skipped: rows with an ``error``, of those that could not be encoded.
        seconds: of sound that was made, not counting what was there before.
    """

    rows: Sequence[Mapping[str, Any]]
    files: Callable[[Mapping[str, Any]], list[Path]]
    skipped: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def paths(self) -> dict[str, Path]:
        """The wav file of each row by its id; of several samples the first."""
        return {row["id"]: self.files(row)[0] for row in self.rows}


def resynthesize(
    rows: Sequence[Mapping[str, Any]],
    dataset: str,
    pipeline: UnitPipeline,
    vocoder: Vocoder,
    output: str | os.PathLike[str] = "output",
    shard: Shard | None = None,
    overwrite: bool = False,
    predict_durations: bool = False,
    samples: int = 1,
    batch_seconds: float | None = None,
    workers: int = 2,
    progress: Callable[[Iterable[Encoded], float], Iterable[Encoded]] = lambda items, seconds: items,
    say: Callable[[str], object] = print,
) -> Resynthesis:
    """Make a wav file for every recording of a manifest, as long as the recording and with as many channels.

    Channels are as loud as in the recording where the units are of ``logmel``, which do not say how loud speech was.
    What is there already from the same recording and settings is kept, of which ``<output>/<dataset>/.resynthesized*``
    keep account.

    Args:
        rows: the whole manifest.
        dataset, output: where the files go, see :class:`.MirrorPaths`.
        pipeline: what makes the units.
        vocoder: what makes the sound.
        shard: the part of the rows to do.
        overwrite: replace wav files of other recordings or settings.
        predict_durations: let the vocoder say how long units last, instead of the recording; the sound is then not as
            long as the recording.
        samples: wav files of each recording, of a vocoder that samples; their names end in ``-s1``, ``-s2``, … above 1.
        batch_seconds, workers: as for :func:`.encode_rows`.
        progress: wraps what is encoded, and is told how many seconds there are to do.
        say: called with lines of text for the user.

    Raises:
        InputError: a wav file would take the place of a recording, or is there and not from these recordings and
            settings, another run is at work on the same shard, or with other settings in the same folder, durations
            are to be predicted by a vocoder that cannot, or nothing could be encoded.
    """
    if predict_durations and not vocoder.predicts_durations:
        raise InputError("--predict-durations: this vocoder has no predictor of durations; omit the option")
    if samples < 1 or samples > 1 and not isinstance(vocoder, UtteranceVocoder):
        raise InputError(f"--samples {samples}: 1 is expected, or more of a vocoder that samples")
    mirror = MirrorPaths(rows, dataset, output)

    def files(row: Mapping[str, Any]) -> list[Path]:
        return _sample_paths(mirror(row), samples)

    folder = mirror.root
    if is_there := folder.exists():  # where it is not, nothing can be replaced
        _keep_recordings(rows, files)
    settings = {
        "units": {**unit_facts(pipeline.codebook, pipeline.quantizer), **pipeline.settings},
        "sound": vocoder.settings,
        "durations": "predicted" if predict_durations else "kept",
    }
    # Units of features relative to the level do not say how loud the speech was.
    keep_levels = pipeline.encoder.name == LogMelEncoder.name
    if keep_levels:
        settings["levels"] = "kept"
    account = folder / JOURNAL if shard is None else shard.path(folder / JOURNAL)
    mine = range(shard.index, len(rows), shard.count) if shard is not None else range(len(rows))
    made = Resynthesis([], files)
    # Before the journal is opened, which drops what it holds of other settings: a refusal costs nothing.
    entry_of = _accounts(folder, account, settings)

    def exists(path: Path, row: Mapping[str, Any]) -> bool:
        entry = entry_of(path.relative_to(folder).as_posix()) if path.exists() else None
        return is_made(path, recording_stamp(row), entry, overwrite)

    def is_done(row: Mapping[str, Any]) -> bool:
        return is_there and {exists(path, row) for path in files(row)} == {True}  # each may be refused

    places, seconds = left_to_do(rows, mine, is_done)
    with ExitStack() as stack:
        with exclusive(folder / JOURNAL, wait=60):  # one run at a time, so that the logs of others have their settings
            journal = stack.enter_context(ResumeLog(account, settings))
            _refuse_other_runs(folder, settings)
        if overwrite:
            _drop_accounts(folder, settings, shard)
        if len(places) < len(mine):
            what = "wav files" if samples == 1 else "recordings' wav files"
            say(f"{len(mine) - len(places)} of {len(mine)} {what} exist already")
        begun: dict[str, tuple[int, list[Any]]] = {}  # number and stamp of what is being encoded
        told: set[int] = set()

        def in_order() -> Iterator[Mapping[str, Any]]:
            for place in map(places.__getitem__, range(len(places))):
                row = rows[place]
                begun[row["id"]] = place, recording_stamp(row)
                _tell_rate(row, pipeline.encoder.sample_rate, vocoder.sample_rate, told, say)
                yield row

        encoded = encode_rows(
            in_order(),
            pipeline.encoder,
            pipeline.quantizer or pipeline.codebook,
            deduplicate=predict_durations,
            batch_seconds=batch_seconds,
            workers=workers,
            levels=keep_levels,
        )

        def sampled() -> Iterator[tuple[Encoded, list[Any], Path, Utterance]]:
            for result in progress(encoded, seconds):
                name = str(result.row["id"])
                number, source = begun.pop(name)
                if result.units is None:
                    made.skipped.append({**result.row, "error": result.error})
                    say(f"skipped: {result.error}")
                    continue
                units = [channel.tolist() for channel in result.units]
                if predict_durations and not isinstance(vocoder, UtteranceVocoder):
                    units = [predict_frames(channel, vocoder) for channel in units]
                for sample, path in enumerate(files(result.row)):
                    called = name if samples == 1 else f"{name}-s{sample + 1}"
                    one = Utterance(called, (number, sample), units, not predict_durations, result.row)
                    yield result, source, path, one

        with closing(encoded), SoundWriter(journal, vocoder.sample_rate, say) as writer:
            for (result, source, path, _), sound in make_sounds(vocoder, sampled(), lambda item: item[3], say):
                if not predict_durations:
                    sound = _as_long(sound, result, vocoder)
                if keep_levels:
                    sound = match_levels(sound, vocoder.sample_rate, result.levels)
                writer.write(path.relative_to(folder).as_posix(), source, path, sound)
                made.seconds += sound.shape[1] / vocoder.sample_rate
        errors = account.with_name(account.name + ".errors")
        if made.skipped:
            write_jsonl(errors, made.skipped)
        else:
            errors.unlink(missing_ok=True)
    failed = {row["id"] for row in made.skipped}
    if mine and len(failed) == len(mine):
        raise InputError(f"none of {len(mine)} recordings could be encoded; the first: {made.skipped[0]['error']}")
    there = NumbersOnDisk()
    for place in mine:
        if not failed or rows[place]["id"] not in failed:
            there.append(place)
    made.rows = Chosen(rows, there)
    return made


def _as_long(sound: torch.Tensor, result: Encoded, vocoder: Vocoder) -> torch.Tensor:
    """Sound (C, N), as long as the recording: an encoder's frames may leave out up to a frame and a half of the end."""
    length = round(result.seconds * vocoder.sample_rate)
    missing = length - sound.shape[1]
    return torch.nn.functional.pad(sound, (0, missing)) if missing > 0 else sound[:, :length]


def _sample_paths(path: Path, samples: int) -> list[Path]:
    return [path.with_stem(f"{path.stem}-s{sample + 1}") if samples > 1 else path for sample in range(samples)]


def _keep_recordings(
    rows: Iterable[Mapping[str, Any]], files: Callable[[Mapping[str, Any]], Iterable[str | Path]]
) -> None:
    """Raise an InputError where the sound of a recording would take the place of a recording, its own or another."""
    folders: dict[str, str] = {}

    def real(path: str | Path) -> str:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        found = os.path.join(folders[folder], name)
        return os.path.realpath(found) if os.path.islink(found) else found

    recordings, outputs = NumbersOnDisk(), NumbersOnDisk()
    for row in rows:
        for path in audio_paths(row):
            recordings.append(hash(real(path)))
        for output in files(row):
            outputs.append(hash(real(output)))
    if common := recordings.common(outputs):
        taken = {real(path): path for row in rows for path in audio_paths(row) if hash(real(path)) in common}
        for output in (output for row in rows for output in files(row)):
            if real(output) in taken:
                raise InputError(
                    f"{output}: output would overwrite the recording {taken[real(output)]}: choose another --output"
                )


def _refuse_other_runs(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise an InputError while a run with other settings is at work in the folder, on whichever shard."""
    for path in folder.glob(JOURNAL + "*"):
        if not path.name.endswith(".errors") and read_resume_log(path)[0] not in (settings, None):
            open_locked(path).close()


def _drop_accounts(folder: Path, settings: Mapping[str, Any], shard: Shard | None) -> None:
    """Delete the accounts of other settings, whose files may be replaced; as a journal drops its own.

    Those of the other shards of the same work are left alone: they may be starting just now, and tell of other files.
    """
    for path in folder.glob(JOURNAL + "*"):
        ours = shard is not None and path.name.endswith(f"-of-{shard.count}")
        if path.name.endswith(".errors") or ours or not path.is_file():
            continue
        if read_resume_log(path)[0] != settings:
            path.unlink(missing_ok=True)


def _accounts(folder: Path, own: Path, settings: Mapping[str, Any]) -> Callable[[str], Any]:
    """What runs with the same settings have made, of this and other shards: the entry of a wav file, None without one.

    What the own account says counts. All are in one table on disk: there may be more accounts than a process may have
    files open.
    """
    table = temporary_tables("made (name TEXT PRIMARY KEY, entry TEXT)")
    for path in sorted(folder.glob(JOURNAL + "*"), key=lambda path: path == own):
        if path.name.endswith(".errors"):
            continue
        theirs, entries = read_resume_log(path)
        if theirs == settings:
            lines = ((storable(name), json.dumps(entry)) for name, entry in entries.items())
            table.executemany("INSERT OR REPLACE INTO made VALUES (?, ?)", lines)

    def entry_of(name: str) -> Any:
        found = table.execute("SELECT entry FROM made WHERE name = ?", (storable(name),)).fetchone()
        return None if found is None else json.loads(found[0])

    return entry_of


def _tell_rate(
    row: Mapping[str, Any], encoder_rate: int, vocoder_rate: int, told: set[int], say: Callable[[str], object]
) -> None:
    """Say what is resampled, of each sample rate once."""
    try:
        rate = int(row.get("sample_rate") or audio_info(audio_paths(row)[0]).sample_rate)
    except (InputError, OSError):
        return  # it will be skipped, with the reason
    steps = [f"the {what}'s {needed} Hz" for what, needed in (("encoder", encoder_rate), ("vocoder", vocoder_rate))
             if rate != needed]  # fmt: skip
    if steps and rate not in told:
        say(f"recordings at {rate} Hz: resampled to {' and to '.join(steps)}")
    told.add(rate)


def match_levels(sound: torch.Tensor, sample_rate: int, levels: Sequence[float]) -> torch.Tensor:
    """Give sound (C, N) these active levels in dB re full scale, one for each channel; never beyond full scale.

    Features that are relative to the level of the speech give the same units for a loud and a soft speaker. In
    resynthesis the recording is at hand, and a distant speaker in a meeting stays as soft as it was.

    Returns:
        The sound, changed in place: hours of it are not held twice.
    """
    meter = LevelMeter(sample_rate // _FRAMES)
    for _ in meter.watch(sound.split(_BLOCK_SECONDS * sample_rate, dim=1)):
        pass
    found = torch.tensor(meter.levels())
    gains = 10 ** ((torch.tensor(levels) - found) / 20)
    lowest, highest = sound.aminmax(dim=1)
    peaks = torch.maximum(-lowest, highest).clamp_min(1e-9)
    return sound.mul_(torch.minimum(gains, _HIGHEST_PEAK / peaks)[:, None])
