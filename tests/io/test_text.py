"""Text from other systems: byte order marks, line ends, empty last lines, and terminals that are not UTF-8."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechdlm_ext.data.binarization import binarize
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.io.rttm import read_rttm
from speechdlm_ext.units.files import read_unit_file
from speechdlm_ext.units.vocabulary import Vocabulary

TEXTS = {
    "m.jsonl": '{"id": "é", "audio_filepath": "a.wav"}\n{"id": "b", "audio_filepath": "b.wav"}\n',
    "u.jsonl": '{"audio": "é", "unitA": "7 7 8"}\n{"audio": "b", "unitA": "9 9"}\n',
    "train.unitA": "7 7 8\n9 9\n",
    "dict.txt": "7 2\n9 2\n8 1\n",
    "a.rttm": "SPEAKER é 1 0.5 1.0 <NA> <NA> A <NA> <NA>\n",
}
READERS = {
    "m.jsonl": read_jsonl,
    "u.jsonl": read_unit_file,
    "dict.txt": lambda path: Vocabulary.load(path).counts,
    "a.rttm": read_rttm,
}


@pytest.mark.parametrize("change", ["mark", "line ends", "empty last line", "all"])
def test_text_of_other_systems_is_read_as_ours(tmp_path: Path, change: str) -> None:
    folders = [tmp_path / name for name in ("ours", "theirs")]
    for folder in folders:
        folder.mkdir()
        for name, text in TEXTS.items():
            content = text.encode()
            if folder.name == "theirs":
                content += b"\n" if change in ("empty last line", "all") and name != "train.unitA" else b""
                content = content.replace(b"\n", b"\r\n") if change in ("line ends", "all") else content
                content = BOM_UTF8 + content if change in ("mark", "all") else content
            (folder / name).write_bytes(content)
        for source in ("train", "u.jsonl"):
            binarize({"train": str(folder / source)}, folder / f"{source}-bin", srcdict=str(folder / "dict.txt"))
    ours, theirs = folders
    for name, read in READERS.items():
        assert read(ours / name) == read(theirs / name)
    for source in ("train", "u.jsonl"):
        for path in sorted((ours / f"{source}-bin").iterdir()):
            assert path.read_bytes() == (theirs / f"{source}-bin" / path.name).read_bytes()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_that_is_not_utf8_is_escaped(tmp_path: Path, run_command, checkout: Path, encoding: str) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "gespräch 日本.wav", np.ones(16000) * 0.1, 16000)
    script = checkout / "data_prep" / "make_manifest.py"
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = run_command(["python", script, tmp_path / "in", tmp_path / "日本.jsonl"], env=environment)
    assert "\\u65e5\\u672c.jsonl" in done.stdout
    for command in ("data_prep/encode_units.py", "scripts/synthesize.py"):
        run_command(["python", checkout / command, "--help"], env=environment)
