"""A corpus of made conversations: files, manifest and ground truth, whole or resumed, the same for any worker count."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.manifest import write_jsonl
from speechdlm_ext.io.rttm import SpeakerTurn, write_rttm
from speechdlm_ext.synthetic.clips import SAMPLE_RATE, SpeechSource
from speechdlm_ext.synthetic.dialogue import Conversation, make_conversation
from speechdlm_ext.synthetic.timing import TurnTiming

_FORMAT = 5  # counted up when the same settings give other sound or another truth


@dataclass(frozen=True)
class CorpusOptions:
    """What to make: ``minutes`` in conversations of ``seconds`` each, drawn from ``seed``."""

    minutes: float = 12.0
    seconds: float = 60.0
    seed: int = 1
    noise_levels: tuple[float, float] = (-72.0, -60.0)  # dB re full scale, drawn for each channel
    timing: TurnTiming = field(default_factory=TurnTiming)

    def __post_init__(self) -> None:
        if not 0 < self.minutes < 1e6:
            raise InputError(f"--minutes {self.minutes}: more than 0 is wanted")
        if not 5 <= self.seconds <= 3600:
            raise InputError(f"--conversation-seconds {self.seconds}: 5 to 3600 is wanted")
        if not -120 <= self.noise_levels[0] <= self.noise_levels[1] <= -20:
            raise InputError(f"--noise-floor {self.noise_levels}: -120 to -20 dB re full scale is wanted")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: 0 or more is wanted")

    @property
    def count(self) -> int:
        """Number of conversations, at least one."""
        return max(1, round(self.minutes * 60 / self.seconds))


@dataclass(frozen=True)
class _Work:
    """What a worker needs to know to make conversation ``index``."""

    source: SpeechSource
    options: CorpusOptions
    folder: Path
    fingerprint: str
    index: int

    @property
    def name(self) -> str:
        return f"dialogue-{self.index:05d}"

    @property
    def record(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def audio(self) -> Path:
        return self.folder / f"{self.name}.wav"


def make_corpus(folder: str | Path, source: SpeechSource, options: CorpusOptions, workers: int = 1) -> Path:
    """Make conversations, or those that are still missing, and write manifest and truth.

    Args:
        folder: gets ``dialogue-NNNNN.wav`` (stereo, 16 kHz), ``dialogue-NNNNN.json`` (who says what when),
            ``manifest.jsonl`` and ``dialogues.rttm``. Conversations that are there with the same settings are kept.
        source: the voices.
        options: what to make.
        workers: processes at a time; the result does not depend on it.

    Returns:
        The manifest.
    """
    from tqdm import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint(source, options)
    works = [_Work(source, options, folder, fingerprint, index) for index in range(options.count)]
    missing = [work for work in works if not _is_done(work)]
    with tqdm(total=len(works), initial=len(works) - len(missing), desc="conversations", unit="file") as bar:
        for _ in _run(missing, workers):
            bar.update()
    manifest = folder / "manifest.jsonl"
    write_jsonl(manifest, (_row(work) for work in works))
    write_rttm(folder / "dialogues.rttm", (turn for work in works for turn in _truth(work)))
    return manifest


def _fingerprint(source: SpeechSource, options: CorpusOptions) -> str:
    """Digest of all that the sound depends on; ``minutes`` is left out, so that a corpus can grow."""
    settings = {"format": _FORMAT, "source": source.settings(), "options": asdict(options) | {"minutes": None}}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _is_done(work: _Work) -> bool:
    """Whether the conversation is there, whole, with these settings: the record is written last."""
    try:
        record = json.loads(work.record.read_text(encoding="utf-8"))
        return record["fingerprint"] == work.fingerprint and record["bytes"] == work.audio.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _run(works: list[_Work], workers: int) -> Iterator[str]:
    """Make each conversation in a process of its own: a synthesiser's state must not reach from one to the next."""
    if not works:
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__, "torch", "scipy.signal"])
    with context.Pool(min(workers, len(works)), _ignore_interrupt, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(_make_one, works, chunksize=1)


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _make_one(work: _Work) -> str:
    import torch

    from speechdlm_ext.io.audio import write_audio

    torch.set_num_threads(1)  # one process a conversation already uses the cores, and sums keep their order
    options = work.options
    rng = np.random.default_rng([options.seed, work.index])
    talk = make_conversation(work.source, options.seconds, rng, options.timing, options.noise_levels)
    write_audio(work.audio, torch.from_numpy(talk.wave), SAMPLE_RATE)
    with atomic_write(work.record) as file:
        json.dump(_record(work, talk), file, ensure_ascii=False)
    return work.name


def _record(work: _Work, talk: Conversation) -> dict[str, Any]:
    """What is known about a conversation: settings, manifest row, truth and words."""
    return {
        "fingerprint": work.fingerprint,
        "bytes": work.audio.stat().st_size,
        "duration": talk.wave.shape[1] / SAMPLE_RATE,
        "seed": [work.options.seed, work.index],
        "speakers": talk.speakers,
        "noise_levels": [round(level, 2) for level in talk.noise_levels],
        "speech": [talk.speech(0), talk.speech(1)],
        "utterances": [
            {"channel": u.channel, "start": round(u.start, 4), "end": round(u.end, 4)}
            | {"kind": u.clip.kind, "text": u.clip.text}
            for u in talk.utterances
        ],
    }


def _row(work: _Work) -> dict[str, Any]:
    record = json.loads(work.record.read_text(encoding="utf-8"))
    row = {"id": work.name, "audio_filepath": str(work.audio.resolve()), "duration": record["duration"]}
    return row | {"channels": 2, "sample_rate": SAMPLE_RATE, "speakers": record["speakers"], "seed": record["seed"]}


def _truth(work: _Work) -> list[SpeakerTurn]:
    record = json.loads(work.record.read_text(encoding="utf-8"))
    turns = [
        SpeakerTurn(work.name, channel + 1, start, round(end - start, 4), record["speakers"][channel])
        for channel, speech in enumerate(record["speech"])
        for start, end in speech
    ]
    return sorted(turns, key=lambda turn: (turn.start, turn.channel))
