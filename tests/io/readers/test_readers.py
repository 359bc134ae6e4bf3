"""Each reader on a file made for it: the samples, parts of them, and lengths that headers do not say."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info, read_audio
from speechdlm_ext.io.readers import open_audio
from speechdlm_ext.io.readers.ffmpeg import find_ffmpeg
from tests.helpers.sphere import conversation, from_ulaw, shorten, to_ulaw, write_fisher, write_sphere

CALL = conversation(3)  # at 8 kHz


def samples_of(path: Path) -> np.ndarray:
    """All samples (N, C); and what is read from a place on is the same as there."""
    with open_audio(path) as file:
        whole = file.read(0, file.frames)
        assert whole.shape == (file.frames, file.channels) and not len(file.read(file.frames, file.frames + 9))
        for start, stop in ((file.frames // 2, file.frames // 2 + 999), (7, 2000), (file.frames - 5, file.frames)):
            np.testing.assert_allclose(file.read(start, stop), whole[start:stop], rtol=0, atol=1e-6)
    return whole


@pytest.mark.parametrize("coding", ["pcm 01", "pcm 10", "ulaw", "alaw", "pcm,embedded-shorten-v2.00", "fisher"])
@pytest.mark.parametrize("name", ["call.sph", "call.wav"])
def test_sphere(tmp_path: Path, coding: str, name: str) -> None:
    path, expected = tmp_path / name, CALL
    if coding == "fisher":
        expected = write_fisher(path, CALL)
    elif coding.startswith("pcm "):
        write_sphere(
            path, CALL.astype("<i2" if coding.endswith("01") else ">i2").tobytes(), len(CALL), order=coding[4:]
        )
    elif coding == "ulaw":
        write_sphere(path, to_ulaw(CALL).tobytes(), len(CALL), "ulaw", 1, "1")
        expected = from_ulaw(to_ulaw(CALL))
    elif coding == "alaw":
        soundfile.write(tmp_path / "a.raw", CALL, 8000, "ALAW", format="RAW")
        write_sphere(path, (tmp_path / "a.raw").read_bytes(), len(CALL), "alaw", 1, "1")
        raw = {"samplerate": 8000, "channels": 2, "subtype": "ALAW", "format": "RAW"}
        expected = soundfile.read(tmp_path / "a.raw", dtype="int16", **raw)[0]
    else:
        write_sphere(path, shorten(CALL.astype(int), 5), len(CALL), coding)
    np.testing.assert_array_equal(np.rint(samples_of(path) * 32768), expected)
    assert audio_info(path).notes == ()


def test_sphere_of_another_length(tmp_path: Path) -> None:
    for name, stated, said in (("more", 99999, "cut off: 3.00 s of the 12.50 s"), ("none", None, "no length, 3.00 s")):
        write_sphere(tmp_path / name, CALL.tobytes(), stated)
        info = audio_info(tmp_path / name)
        assert info.frames == len(CALL) and said in info.notes[0]
    write_sphere(tmp_path / "padded", CALL.tobytes() + bytes(100), len(CALL))
    assert audio_info(tmp_path / "padded").frames == len(CALL) and not audio_info(tmp_path / "padded").notes


@pytest.mark.parametrize("coding", ["pcm", "ulaw"])
@pytest.mark.parametrize("bytes_left", [1100, 5000, 9001])
def test_shorten_that_is_cut_off(tmp_path: Path, coding: str, bytes_left: int) -> None:
    """The sound is there as far as its blocks are whole, to less than a block (256 samples) of what any decoder has."""
    if coding == "ulaw":
        expected = write_fisher(tmp_path / "cut", CALL)
        whole = (tmp_path / "cut").read_bytes()
    else:
        expected, stream = CALL, shorten(CALL.astype(int), 5)
        write_sphere(tmp_path / "cut", stream, len(CALL), "pcm,embedded-shorten-v2.00")
        whole = (tmp_path / "cut").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: 1024 + bytes_left])
    info = audio_info(tmp_path / "cut")
    share = bytes_left / (len(whole) - 1024)
    assert 0.6 * share * len(CALL) - 256 < info.frames < 1.5 * share * len(CALL) and "cut off: " in info.notes[0]
    np.testing.assert_array_equal(np.rint(samples_of(tmp_path / "cut") * 32768), expected[: info.frames])


def test_shorten_without_a_block(tmp_path: Path) -> None:
    for name, stream in (("cut", shorten(CALL.astype(int), 5)[:40]), ("damaged", b"ajkg\2" + bytes(range(255)) * 9)):
        write_sphere(tmp_path / name, stream, len(CALL), "pcm,embedded-shorten-v2.00")
        with pytest.raises(InputError, match=f"{name} (is cut off or damaged|has no samples)"):
            audio_info(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "subtype", "form", "close"),
    [
        ("a.wav", "PCM_24", "WAVEX", 1e-6),
        ("a.wav", "FLOAT", "WAV", 1e-7),
        ("a.wav", "ULAW", "WAV", 0.02),
        ("a.wav", "PCM_16", "RF64", 1e-4),
        ("a.aiff", "PCM_16", "AIFF", 1e-4),
        ("a.caf", "PCM_16", "CAF", 1e-4),
        ("a.au", "PCM_16", "AU", 1e-4),
        ("a.w64", "PCM_16", "W64", 1e-4),
        ("a.flac", "PCM_16", "FLAC", 1e-4),
        ("a.opus", "OPUS", "OGG", None),
        ("a.ogg", "VORBIS", "OGG", None),
        ("a.mp3", "MPEG_LAYER_III", "MP3", None),
        ("without a suffix", "PCM_16", "WAV", 1e-4),
    ],
)
def test_libsndfile(tmp_path: Path, name: str, subtype: str, form: str, close: float | None) -> None:
    soundfile.write(tmp_path / name, CALL / 32768, 8000, subtype, format=form)
    got = samples_of(tmp_path / name)
    assert got.shape == CALL.shape and not audio_info(tmp_path / name).notes
    if close:
        np.testing.assert_allclose(got, CALL / 32768, atol=close)
    else:
        assert np.corrcoef(got.T.ravel(), CALL.T.ravel())[0, 1] > 0.9


def _with(content: bytes, *changes: tuple[int, bytes]) -> bytes:
    changed = bytearray(content)
    for place, new in changes:
        changed[place : place + len(new)] = new
    return bytes(changed)


@pytest.mark.parametrize("lie", ["nothing", "unknown", "less", "more", "cut"])
@pytest.mark.parametrize("form", ["WAV", "RF64", "AIFF", "AU", "CAF", "W64", "FLAC", "MP3"])
def test_headers_that_lie(tmp_path: Path, form: str, lie: str) -> None:
    """All of the sound is there, whatever the header says; of a file that is cut off, what is left."""
    path = tmp_path / f"a.{form.lower()}"
    soundfile.write(path, CALL, 8000, format=form)
    whole = samples_of(path)
    content, frames = path.read_bytes(), len(CALL)
    if lie == "cut":
        path.write_bytes(content[: len(content) * 6 // 10])
        frames = round(0.6 * frames)
    else:
        factor = {"nothing": 0, "less": 0.5, "more": 3, "unknown": None}[lie]

        def number(pack: str, right: int, unknown: int) -> bytes:
            return struct.pack(pack, unknown if factor is None else int(right * factor))

        size = 4 * frames
        at = content.find(b"data") + 4
        if form == "WAV":
            new = [(at, number("<I", size, 0xFFFFFFFF)), (4, number("<I", size, 0xFFFFFFFF))]
        elif form == "RF64":
            new = [
                (at, number("<I", size, 0xFFFFFFFF)),
                (content.find(b"ds64") + 16, number("<Q", size, (1 << 63) - 1)),
            ]
        elif form == "AIFF":
            common, at = content.find(b"COMM") + 10, content.find(b"SSND") + 4
            new = [(common, number(">I", frames, 0xFFFFFFFF)), (at, number(">I", size + 8, 0xFFFFFFFF))]
        elif form == "AU":
            new = [(8, number(">I", size, 0xFFFFFFFF))]
        elif form == "CAF":
            new = [(at, number(">q", size + 4, -1))]
        elif form == "W64":
            new = [(at + 12, number("<Q", size + 24, (1 << 63) - 1))]
        elif form == "FLAC":
            field = int.from_bytes(content[21:26], "big") >> 36 << 36
            new = [(21, (field | int(frames * (factor or 0))).to_bytes(5, "big"))]
        else:
            info = max(content.find(b"Xing"), content.find(b"Info")) + 8
            (count,) = struct.unpack(">I", content[info : info + 4])
            new = [(info, struct.pack(">I", int(count * (factor or 0))))]
        path.write_bytes(_with(content, *new))
    got, (note, *_) = samples_of(path), [*audio_info(path).notes, ""]
    assert abs(len(got) - frames) <= (2400 if form == "MP3" else 4608 if lie == "cut" else 0)
    if form != "MP3":  # without its info frame the decoder's delay is not taken out
        np.testing.assert_allclose(got, whole[: len(got)], atol=1e-6)
    assert note or form == "MP3" and lie in ("nothing", "unknown")
    assert len(read_audio(path)[0][0]) == len(got)


@pytest.mark.parametrize("loud", ["first", "last"])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_mp3_without_an_info_frame(tmp_path: Path, loud: str, mode: str) -> None:
    """As encoders write it to a pipe, with cover art and tags: its first frames do not tell its length."""
    sound = np.random.default_rng(1).standard_normal((40 * 16000, 2)) * 0.1
    sound[10 * 16000 :] *= 1e-3
    sound = sound if loud == "first" else sound[::-1]
    soundfile.write(tmp_path / "a.mp3", sound, 16000, format="MP3", bitrate_mode=mode, compression_level=0.5)
    content = (tmp_path / "a.mp3").read_bytes()
    where = max(content.find(b"Xing", 0, 200), content.find(b"Info", 0, 200))
    second = content.find(content[:2], where)
    art = b"ID3\4\0\0" + bytes((0, 3, 0, 0)) + bytes(3 << 14)
    (tmp_path / "b.mp3").write_bytes(art + content[second:] + b"TAG".ljust(128, b"x"))
    info = audio_info(tmp_path / "b.mp3")
    assert abs(info.duration - 40) < 0.15 and not info.notes
    assert len(samples_of(tmp_path / "b.mp3")) == info.frames


@pytest.mark.skipif(find_ffmpeg() is None, reason="ffmpeg is not installed: pip install '.[audio]'")
@pytest.mark.parametrize("name", ["a.m4a", "a.aac", "a.webm", "a.mkv", "a.mp4", "a.wma", "a.dat", "video.mp4"])
def test_ffmpeg(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / "a.wav", CALL, 8000)
    picture = ["-f", "lavfi", "-i", "testsrc=d=3:s=16x16"] if name == "video.mp4" else []
    form = ["-f", "mp4", "-c:a", "aac"] if name == "a.dat" else []
    command = [find_ffmpeg(), "-v", "error", *picture, "-i", tmp_path / "a.wav", *form, tmp_path / name]
    subprocess.run(list(map(str, command)), check=True)
    got, info = samples_of(tmp_path / name), audio_info(tmp_path / name)
    assert info.channels == 2 and abs(info.duration - 3) < 0.3
    spectra = np.abs(np.fft.rfft(got, axis=0))
    assert spectra.argmax(axis=0) / info.duration == pytest.approx([600, 1100], abs=10)  # each on its channel


def test_what_no_reader_takes_names_a_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechdlm_ext.io.readers.ffmpeg.find_ffmpeg", lambda: None)
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(99))
    with pytest.raises(
        InputError, match=r"a.m4a cannot be read without ffmpeg: pip install .* or .*: ffmpeg -i .*a.wav$"
    ):
        audio_info(tmp_path / "a.m4a")
    (tmp_path / "b.wav").write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(99))
    with pytest.raises(InputError, match=r"b.wav is not audio .*: convert it, as by ffmpeg -i "):
        audio_info(tmp_path / "b.wav")


def test_damaged_mp3_names_the_place(tmp_path: Path) -> None:
    sound = np.random.default_rng(1).normal(0, 0.1, 16000 * 10)
    soundfile.write(tmp_path / "a.mp3", sound, 16000)
    content = bytearray((tmp_path / "a.mp3").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 9000] = bytes(9000)
    (tmp_path / "a.mp3").write_bytes(content)
    with open_audio(tmp_path / "a.mp3") as file, pytest.raises(InputError, match=r"a\.mp3 is damaged after 4\.9\d s"):
        file.read(0, file.frames)
