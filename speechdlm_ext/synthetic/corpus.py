"""A corpus of synthetic dialogues: audio, manifest and RTTM; resumable, and the same for any number of workers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.io.manifest import write_jsonl
from speechdlm_ext.io.pool import run_in_processes
from speechdlm_ext.io.rttm import SpeakerTurn, write_rttm
from speechdlm_ext.synthetic.dialogue import (
    SAMPLE_RATE,
    SpeechSource,
    SyntheticDialogue,
    TurnTakingPriors,
    simulate_dialogue,
)

_FORMAT = 5  # increased when the same settings give other audio or another segmentation


@dataclass(frozen=True)
class CorpusOptions:
    """``minutes`` of audio in dialogues of ``seconds`` each, sampled from ``seed``."""

    minutes: float = 12.0
    seconds: float = 60.0
    seed: int = 1
    noise_levels: tuple[float, float] = (-72.0, -60.0)  # dB re full scale, sampled for each channel
    priors: TurnTakingPriors = field(default_factory=TurnTakingPriors)

    def __post_init__(self) -> None:
        if not 0 < self.minutes < 1e6:
            raise InputError(f"--minutes {self.minutes}: expected more than 0")
        if not 5 <= self.seconds <= 3600:
            raise InputError(f"--dialogue-seconds {self.seconds}: expected 5 to 3600")
        if not -120 <= self.noise_levels[0] <= self.noise_levels[1] <= -20:
            raise InputError(f"--noise-floor {self.noise_levels}: expected -120 to -20 dB re full scale")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected 0 or more")

    @property
    def count(self) -> int:
        """Number of dialogues, at least one."""
        return max(1, round(self.minutes * 60 / self.seconds))


@dataclass(frozen=True)
class _Work:
    """What a worker needs to generate dialogue ``index``."""

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


def simulate_corpus(folder: str | Path, source: SpeechSource, options: CorpusOptions, num_workers: int = 1) -> Path:
    """Generate the dialogues that do not exist yet, and write manifest and ground-truth segmentation.

    Args:
        folder: gets ``dialogue-NNNNN.wav`` (stereo, 16 kHz), ``dialogue-NNNNN.json`` (utterances and their times),
            ``manifest.jsonl`` and ``dialogues.rttm``. Dialogues that exist with the same settings are kept.
        source: of utterances.
        options: what to generate.
        num_workers: processes at a time; the result does not depend on it.

    Returns:
        The manifest.
    """
    from tqdm import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint(source, options)
    works = [_Work(source, options, folder, fingerprint, index) for index in range(options.count)]
    missing = [work for work in works if not _is_done(work)]
    with tqdm(total=len(works), initial=len(works) - len(missing), desc="synthetic dialogues", unit="file") as bar:
        # Each in a process of its own: espeak-ng carries state from one utterance to the next.
        for _ in run_in_processes(_make_one, missing, num_workers, fresh=True, preload=["scipy.signal"]):
            bar.update()
    manifest = folder / "manifest.jsonl"
    write_jsonl(manifest, (_row(work) for work in works))
    write_rttm(folder / "dialogues.rttm", (turn for work in works for turn in _segmentation(work)))
    return manifest


def _fingerprint(source: SpeechSource, options: CorpusOptions) -> str:
    """Digest of all that the audio depends on, without ``minutes``, so that a corpus can grow."""
    settings = {"format": _FORMAT, "source": source.settings(), "options": asdict(options) | {"minutes": None}}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _is_done(work: _Work) -> bool:
    """Whether the dialogue exists, whole, with these settings: the record is written last."""
    try:
        record = json.loads(work.record.read_text(encoding="utf-8"))
        return record["fingerprint"] == work.fingerprint and record["bytes"] == work.audio.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make_one(work: _Work) -> str:
    import torch

    options = work.options
    rng = np.random.default_rng([options.seed, work.index])
    dialogue = simulate_dialogue(work.source, options.seconds, rng, options.priors, options.noise_levels)
    write_audio(work.audio, torch.from_numpy(dialogue.wave), SAMPLE_RATE)
    with atomic_write(work.record) as file:
        json.dump(_record(work, dialogue), file, ensure_ascii=False)
    return work.name


def _record(work: _Work, dialogue: SyntheticDialogue) -> dict[str, Any]:
    """What is known about a dialogue: settings, segmentation and words."""
    return {
        "fingerprint": work.fingerprint,
        "bytes": work.audio.stat().st_size,
        "duration": dialogue.wave.shape[1] / SAMPLE_RATE,
        "seed": [work.options.seed, work.index],
        "speakers": dialogue.speakers,
        "noise_levels": [round(level, 2) for level in dialogue.noise_levels],
        "speech": [dialogue.speech(0), dialogue.speech(1)],
        "utterances": [
            {"channel": u.channel, "start": round(u.start, 4), "end": round(u.end, 4)}
            | {"kind": u.clip.kind, "text": u.clip.text}
            for u in dialogue.utterances
        ],
    }


def _row(work: _Work) -> dict[str, Any]:
    record = json.loads(work.record.read_text(encoding="utf-8"))
    row = {"id": work.name, "audio_filepath": str(work.audio.resolve()), "duration": record["duration"]}
    return row | {"channels": 2, "sample_rate": SAMPLE_RATE, "speakers": record["speakers"], "seed": record["seed"]}


def _segmentation(work: _Work) -> list[SpeakerTurn]:
    record = json.loads(work.record.read_text(encoding="utf-8"))
    turns = [
        SpeakerTurn(work.name, channel + 1, start, round(end - start, 4), record["speakers"][channel])
        for channel, speech in enumerate(record["speech"])
        for start, end in speech
    ]
    return sorted(turns, key=lambda turn: (turn.start, turn.channel))
