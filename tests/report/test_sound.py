"""Sound for pages: outlines from blocks, links to any name, and memory that does not grow with the corpus."""

from __future__ import annotations

import os
import re
import tracemalloc
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.report.evaluation import PageCorpus, PageOptions, write_page
from speechdlm_ext.report.sound import LEVELS, Recording, link_to, load_sound, outline, outline_columns

RATE = 8000


def brute_outline(wave: np.ndarray, columns: int) -> str:
    """The definition, sample by sample."""
    peaks = [0.0] * columns
    for index, value in enumerate(wave):
        column = index * columns // len(wave)
        peaks[column] = max(peaks[column], abs(float(value)))
    return "".join(LEVELS[int(np.rint(np.sqrt(peak) * 63))] for peak in peaks)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(1, 80), st.integers(0, 9))
def test_outline_is_the_greatest_level_of_each_column(samples: int, columns: int, seed: int) -> None:
    wave = np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)
    assert outline(wave, columns) == brute_outline(wave, columns)


def test_part_of_a_file_is_what_is_shown_and_heard(tmp_path: Path) -> None:
    """Over the edges of blocks, and with a lead before it; the sound that is cut out is that part, to the sample."""
    import base64
    import io

    wave = np.random.default_rng(0).uniform(-0.9, 0.9, (70 * RATE, 2)).astype(np.float32)
    soundfile.write(tmp_path / "talk.wav", wave, RATE, subtype="FLOAT")
    part = wave[20 * RATE : 65 * RATE]
    recording = Recording([tmp_path / "talk.wav"], start=25.0, lead=5.0)
    linked = load_sound(recording, 40.0, 0, tmp_path)
    assert linked.sources == ["talk.wav"] and linked.offset == 20.0 and not linked.embedded
    assert list(linked.outlines) == [outline(channel, outline_columns(45.0)) for channel in part.T]
    heard = load_sound(recording, 40.0, 10**8, tmp_path)
    assert heard.embedded and heard.offset == 0.0 and list(heard.outlines) == list(linked.outlines)
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(heard.sources[0].partition(",")[2])))
    assert rate == RATE and sound.shape == part.shape and np.allclose(sound, part, atol=1 / 32000)
    size = len(heard.sources[0])
    assert load_sound(recording, 40.0, size, tmp_path).embedded  # exactly enough room
    assert not load_sound(recording, 40.0, size - 1, tmp_path).embedded


def test_compressed_files_go_in_as_they_are(tmp_path: Path) -> None:
    import base64

    path = tmp_path / "talk.flac"
    soundfile.write(path, np.zeros((RATE, 2)), RATE)
    sound = load_sound(Recording([path]), 1.0, 10**6, tmp_path)
    assert base64.b64decode(sound.sources[0].partition(",")[2]) == path.read_bytes()


@pytest.mark.parametrize("name", ("a b#?.wav", "%41.wav", "</script>.wav", "会話 “ü”.wav", b"\xff\xfe.wav"))
def test_links_lead_to_files_of_any_name(name: str | bytes, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"sound", os.fsencode(name))))
    (tmp_path / "page").mkdir()
    link = link_to(path, tmp_path / "page")
    assert re.fullmatch(r"[A-Za-z0-9_.~%/-]+", link)
    assert os.path.normpath(os.path.join(os.fsencode(tmp_path), b"page", unquote_to_bytes(link))) == os.fsencode(path)


def test_missing_and_odd_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone.wav"):
        load_sound(Recording([tmp_path / "gone.wav"]), 1.0, 0, tmp_path)
    soundfile.write(tmp_path / "talk.aiff", np.zeros(RATE), RATE)  # no browser plays it: embedded as FLAC, never linked
    assert (
        load_sound(Recording([tmp_path / "talk.aiff"]), 1.0, 10**6, tmp_path).sources[0].startswith("data:audio/flac")
    )
    assert load_sound(Recording([tmp_path / "talk.aiff"]), 1.0, 0, tmp_path).sources == []
    assert load_sound(Recording(), 1.0, 10**6, tmp_path).sources == []


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Twenty times as much sound takes no more memory than a fifth of it would."""
    seconds, count = 30, 20
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (seconds * RATE, 2))
    soundfile.write(tmp_path / "0.wav", wave, RATE)
    for number in range(1, count):
        os.link(tmp_path / "0.wav", tmp_path / f"{number}.wav")
    events = find_events_of_many([([[(1.0, 2.0)], [(3.0, 4.0)]], float(seconds))] * count)
    recordings = [Recording([tmp_path / f"{number}.wav"]) for number in range(count)]
    corpus = PageCorpus("generated", list(map(str, range(count))), events, recordings)
    tracemalloc.start()
    report = write_page(tmp_path / "index.html", {}, [corpus], PageOptions(embed_megabytes=0, num_workers=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.linked == count
    assert peak < count / 5 * wave.size * 4
