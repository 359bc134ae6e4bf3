"""A page of real calls and meetings for tests: its corpora, and what to do with it in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import soundfile

from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.rttm import read_rttm, speech_by_speaker
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.comparison import compare, compare_halves
from speechdlm_ext.metrics.intervals import crop_intervals, shift_intervals
from speechdlm_ext.metrics.summary import summarize
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.report.evaluation import PageCorpus, PageOptions, PageReport, write_page
from speechdlm_ext.report.sound import Recording
from speechdlm_ext.vad.energy import Energy

HOSTILE = "</script><script>document.title='owned'</script> '\"&<!-- 会話\u2028 " + "very-long-" * 30

LEAD = 4.0  # seconds of prompt before the parts of the call

NOW = "return document.querySelector('[data-dialogues] audio').currentTime;"

# Thresholds of this test's own: with them there are events of every kind in the parts that are shown.
THRESHOLDS = Energy(rise=0.45, fall=0.22, min_silence=0.1)


def make_corpora(data: Path, folder: Path) -> list[PageCorpus]:
    """Parts of a call, a short call, the same as two files, a mute one; beside them meetings with four speakers."""
    call, short = data / "speech" / "calls" / "auto_repairs_40.ogg", data / "speech/calls/google_two_channel.flac"
    wave, rate = read_audio(call)
    speech = THRESHOLDS.detect(wave.numpy(), rate)
    items, names, recordings = [], [], []
    for start in (5.0, 36.0, 20.0):
        part = [shift_intervals(crop_intervals(a, start, start + 20), -start) for a in speech]
        items.append((part, 20.0))
        names.append(f"call from {start:g}")
        recordings.append(Recording([call], start, LEAD))
    wave, rate = read_audio(short)
    speech = THRESHOLDS.detect(wave.numpy(), rate)
    sides = [folder / f"side {number} #%.wav" for number in (1, 2)]
    for side, channel in zip(sides, wave.numpy(), strict=True):
        soundfile.write(side, channel, rate)
    for name, files in ((HOSTILE, [short]), ("two files", sides), ("silent", [])):
        items.append((speech if name != "silent" else [[], []], wave.shape[1] / rate))
        names.append(name)
        recordings.append(Recording(files))
    figures = [
        {"wer": value, "sound.A.level": -20.0 - n} for n, value in enumerate((0.5, None, 0.25, float("nan"), 1.0, 0))
    ]
    generated = PageCorpus("generated", names, find_events_of_many(items), recordings, figures)
    people = speech_by_speaker(read_rttm(data / "speech" / "ami.rttm"))
    chosen = {name: people[name] for name in ("trn00", "tst00")}
    meetings = find_events_of_many([([who[name] for name in sorted(who)], 30.0) for who in chosen.values()])
    files = [Recording([data / "speech" / "ami" / f"{name}.ogg"]) for name in chosen]
    who = [sorted(people) for people in chosen.values()]
    return [generated, PageCorpus("reference", list(chosen), meetings, files, [], who)]


def write(path: Path, corpora: list[PageCorpus], megabytes: float = 1.2) -> PageReport:
    generated, reference = corpora[0].events, corpora[1].events
    bootstrap = BootstrapOptions(resamples=100)
    result = {
        "generated": summarize(generated, bootstrap)
        | {"sound": {"A": {"level": -21.5}, "B": {"level": -23.0}}, "x": {HOSTILE[:20]: None}},
        "reference": summarize(reference, bootstrap),
        "distance": compare(generated, reference, bootstrap),
        "split_half": compare_halves(reference, splits=3),
        "activity": {"source": "energy", "frame_shift_seconds": 0.01},
        "skipped": [{"file": HOSTILE, "reason": "no speech"}],
    }
    return write_page(path, result, corpora, PageOptions(embed_megabytes=megabytes, num_workers=2))


def data_of(page: Path) -> list[dict[str, Any]]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="dialogue-(\d+)">(.*?)</script>', text)
    return [json.loads(content) for _, content in sorted(found, key=lambda pair: int(pair[0]))]


def choose(driver: Any, name: str) -> None:
    """Choose a dialogue and wait for its sound."""
    script = (
        "const done = arguments[1], row = [...document.querySelectorAll('.dialogues tbody button')]"
        ".find((b) => b.textContent === arguments[0]);"
        "if (!row.closest('tr').hasAttribute('aria-current')) row.click();"
        "const ready = () => { const a = document.querySelector('[data-dialogues] audio');"
        " !a || a.readyState >= 2 || a.error ? done(!a || !a.error) : setTimeout(ready, 20); }; ready();"
    )
    assert driver.execute_async_script(script, name)


def names_shown(driver: Any) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('.dialogues tbody button')].map((b) => b.textContent);"
    )
