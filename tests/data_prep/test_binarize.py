"""binarize.py against fairseq-preprocess, file by file and byte by byte; and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.data import binarization
from speechdlm_ext.data.binarization import binarize
from speechdlm_ext.data.text_chunks import cut
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.locking import exclusive
from speechdlm_ext.units.vocabulary import Vocabulary

Lines = dict[str, list[list[int]]]


def make_lines(lines: int, seed: int, units: int = 30) -> Lines:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 40, lines)
    return {c: [random.integers(0, units, n).tolist() for n in lengths] for c in ("unitA", "unitB")}


def text(line: list[int]) -> str:
    return " ".join(map(str, line))


def write_text(prefix: Path, lines: Lines) -> None:
    for channel, rows in lines.items():
        Path(f"{prefix}.{channel}").write_text("".join(text(row) + "\n" for row in rows))


def preprocess(raw: Path, folder: Path, *options: str, channels: tuple[str, ...] = ("unitA", "unitB")) -> None:
    """The published commands: one for each channel, with the first one's dictionary."""
    from fairseq import options as fairseq_options
    from fairseq_cli.preprocess import main

    for channel in channels:
        words = ["--source-lang", channel, "--only-source", "--destdir", str(folder), *options]
        for split in ("train", "valid", "test"):
            if Path(f"{raw / split}.{channel}").exists():
                words += [f"--{split}pref", str(raw / split)]
        if channel != channels[0] and "--srcdict" not in options and "--no-srcdict" not in options:
            words += ["--srcdict", str(folder / f"dict.{channels[0]}.txt")]
        main(fairseq_options.get_preprocessing_parser().parse_args([w for w in words if w != "--no-srcdict"]))


def contents(folder: Path, rename: bool = False) -> dict[str, bytes]:
    """Files by name; ``rename`` does what the published renaming loop does."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "preprocess.log"}
    return {name.replace(f"-None.{name.split('.')[-2]}", "") if rename else name: data for name, data in found.items()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Raw text of three splits, some units in validation data only, and what the published commands make of it."""
    folder = tmp_path_factory.mktemp("binarize")
    (folder / "raw").mkdir()
    for seed, (split, lines, units) in enumerate((("train", 40, 30), ("valid", 7, 33), ("test", 3, 30))):
        write_text(folder / "raw" / split, make_lines(lines, seed, units))
    preprocess(folder / "raw", folder / "bin")
    return folder / "raw", folder / "bin"


def prefixes(raw: Path) -> dict[str, str]:
    return {split: str(raw / split) for split in ("train", "valid", "test")}


def test_the_command_writes_what_the_published_commands_write(
    corpus: tuple[Path, Path], tmp_path: Path, run_command: Any, checkout: Path
) -> None:
    raw, theirs = corpus
    script = ["python", checkout / "data_prep/binarize.py", "--destdir", tmp_path / "bin", "--workers", "2"]
    splits = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", raw / split)]
    done = run_command([*script, *splits])
    assert contents(tmp_path / "bin") == contents(theirs, rename=True)
    assert "train unitA: 40 lines" in done.stdout and "become <unk> (30, 31, 32)" in done.stdout
    refused = run_command([*script, *splits], check=False)
    assert_refused(refused, "is there already: pass --overwrite")
    run_command([*script, *splits, "--overwrite", "--names", "fairseq"])  # the other names are gone
    assert contents(tmp_path / "bin") == contents(theirs)


def test_the_reference_data_come_out(reference: Path, tmp_path: Path) -> None:
    """What fairseq-preprocess made of the reference's text, long ago and on another machine."""
    binarize({split: str(reference / "raw" / split) for split in ("train", "valid")}, tmp_path / "bin", workers=2)
    assert contents(tmp_path / "bin") == contents(reference / "bin")


@pytest.mark.parametrize("kind", ["json", "literal"])
@pytest.mark.parametrize("workers", [1, 3])
def test_rows_and_many_chunks_give_the_same(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, workers: int
) -> None:
    raw, theirs = corpus
    monkeypatch.setattr(binarization, "cut", partial(cut, size=300))
    for split in ("train", "valid", "test"):
        columns = [Path(f"{raw / split}.{c}").read_text().splitlines() for c in ("unitA", "unitB")]
        rows = [{"audio": "é", "unitA": a, "unitB": b, "more": [1]} for a, b in zip(*columns, strict=True)]
        written = [json.dumps(row) if kind == "json" else str(row) for row in rows]
        (tmp_path / split).write_text("\r\n\n".join(written))  # blank lines are passed over, the last has no end
    binarize(prefixes(tmp_path), tmp_path / "bin", workers=workers)
    assert contents(tmp_path / "bin") == contents(theirs, rename=True)


def test_other_dictionaries_are_those_of_fairseq(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    raw, _ = corpus
    preprocess(raw, tmp_path / "each", "--no-srcdict")
    binarize(prefixes(raw), tmp_path / "ours-each", dictionary="each")
    assert contents(tmp_path / "ours-each") == contents(tmp_path / "each", rename=True)

    (tmp_path / "given.txt").write_text("7 3\nodd 2\n12 1\n")
    preprocess(raw, tmp_path / "given", "--srcdict", str(tmp_path / "given.txt"))
    made = binarize(prefixes(raw), tmp_path / "ours-given", srcdict=str(tmp_path / "given.txt"))
    assert contents(tmp_path / "ours-given") == contents(tmp_path / "given", rename=True)
    assert made.columns["train", "unitA"].unknown.keys() == {str(u) for u in range(30)} - {"7", "12"}

    from fairseq import options
    from fairseq_cli.preprocess import main

    pair = [
        "--source-lang",
        "unitA",
        "--target-lang",
        "unitB",
        "--joined-dictionary",
        "--trainpref",
        str(raw / "train"),
    ]
    main(options.get_preprocessing_parser().parse_args([*pair, "--destdir", str(tmp_path / "joined"), "--dict-only"]))
    binarize({"train": str(raw / "train")}, tmp_path / "ours-joined", dictionary="joined")
    for channel in ("unitA", "unitB"):
        name = f"dict.{channel}.txt"
        assert (tmp_path / "ours-joined" / name).read_bytes() == (tmp_path / "joined" / name).read_bytes()


@given(st.dictionaries(st.integers(0, 10**6).map(str), st.integers(1, 5), min_size=1, max_size=40))
@settings(max_examples=50)
def test_dictionaries_are_ordered_and_filled_as_fairseqs(counts: dict[str, int]) -> None:
    from fairseq.data import Dictionary

    theirs = Dictionary()
    for unit, count in counts.items():
        theirs.add_symbol(unit, count)
    theirs.finalize(padding_factor=8)
    ours = Vocabulary.count(counts)
    assert ours.ids == theirs.indices
    assert list(ours.counts.values()) == theirs.count[theirs.nspecial :]


def test_large_vocabularies_have_wider_numbers(tmp_path: Path) -> None:
    units = np.random.default_rng(0).permutation(70_000)
    (tmp_path / "train.a b").write_text("\n".join(text(part.tolist()) for part in np.split(units, 7)))
    preprocess(tmp_path, tmp_path / "theirs", channels=("a b",))
    binarize({"train": str(tmp_path / "train")}, tmp_path / "ours", channels=["a b"])
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs", rename=True)


def test_documents_keep_their_empty_lines(tmp_path: Path) -> None:
    write_text(tmp_path / "train", {"unitA": [[1, 2], [], [3]], "unitB": [[4, 4], [], [4]]})
    with pytest.raises(InputError, match=r"train\.unitA, line 2: no units .*--keep-empty-lines"):
        binarize({"train": str(tmp_path / "train")}, tmp_path / "ours")
    binarize({"train": str(tmp_path / "train")}, tmp_path / "ours", keep_empty_lines=True)
    preprocess(tmp_path, tmp_path / "theirs")
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs", rename=True)


ROW = '{"audio": "x", "unitA": "1 2", "unitB": "3 4"}\n'


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"t.unitA": "1 2\n3\n", "t.unitB": "1 2\n3 4\n"}, {},
         r"t\.unitB, line 2: 2 frames in channel unitB, 1 in unitA .*t\.unitA\); 1 line"),
        ({"t.unitA": "1\n2\n", "t.unitB": "1\n"}, {}, r"t\.unitB: 1 lines in channel unitB, 2 in unitA"),
        ({"t": ROW + '{"unitA": "1 2", "unitB": "3"}\n'}, {}, r"t, line 2: .*2 in unitA, 1 in unitB"),
        ({"t": ROW + '{"unitA": [1, 2], "unitB": "3 4"}\n'}, {}, r"t, line 2: .*unitA must be a string.*list"),
        ({"t": ROW + '\n{"unitA": "1 2", "unitC": "3 4"}\n'}, {}, r"t, line 3: a channel unitC, but"),
        ({"t": ROW}, {"channels": ["unitA", "guest"]}, r"t, line 1: guest: .*no such field"),
        ({"t": ROW + "nonsense\n"}, {}, r"t, line 2: neither JSON nor a Python literal"),
        ({"t": '{"words": "1"}\n'}, {}, r"t, line 1: .*channels unitA, unitB, … are expected.*--channels"),
        ({"t": "\n\n"}, {}, r"t has no rows"),
        ({"t.unitA": "1 2\n", "t.unitB": "1 x2\n"}, {}, r"t\.unitB, line 1: unit 'x2'"),
        ({"t.unitA": "1\n\xff\n"}, {"channels": ["unitA"]}, r"t\.unitA, line 2: unit 'ÿ'"),
        ({"t.unitA": "1\n2 <pad>\n"}, {}, r"t\.unitA, line 2: unit '<pad>'"),
        ({"t.unitA": ""}, {}, r"t\.unitA: empty"),
        ({"t.unitA": "1\n", "t.unitC": "1\n"}, {}, r"found unitA, unitC"),
        ({}, {}, r"t: neither a unit file nor the prefix"),
        ({"t.unitA": "1\n"}, {"channels": ["unitA", "b"]}, r"t\.b: no such file"),
        ({"t.unitA": "1\n"}, {"channels": ["unitA", "unitA"]}, r"--channels unitA,unitA: different names"),
        ({"t.unitA": "1\n"}, {"channels": ["../x"]}, r"--channels \.\./x"),
        ({"t.unitA": "1\n"}, {"workers": 0}, r"--num-workers 0"),
        ({"t.unitA": "1\n"}, {"srcdict": "{tmp}/none"}, r"none: no such dictionary"),
        ({"t.unitA": "1\n", "d": "1 2\nx\n"}, {"srcdict": "{tmp}/d"}, r"d, line 2: '<unit> <count>'"),
        ({"t.unitA": "1\n", "d": "1 2\n1 3\n"}, {"srcdict": "{tmp}/d"}, r"d, line 2: 1 occurs twice"),
    ],
)  # fmt: skip
def test_refused_with_file_and_line_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(binarization, "cut", partial(cut, size=1))  # every line is a chunk of its own
    for name, written in files.items():
        (tmp_path / name).write_text(written)
    filled = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(InputError, match=message):
        binarize({"train": str(tmp_path / "t")}, tmp_path / "bin", **filled)
    assert not (tmp_path / "bin").exists() or not list((tmp_path / "bin").iterdir())


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_dictionary_is_not_changed_under_other_data(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    raw, _ = corpus
    binarize(prefixes(raw), tmp_path / "bin")
    before = contents(tmp_path / "bin")
    write_text(tmp_path / "train", make_lines(9, 7))
    with pytest.raises(InputError, match=r"dict\.unitA\.txt would change, and .*test\.unitA\.idx was made with it"):
        binarize({"train": str(tmp_path / "train")}, tmp_path / "bin", overwrite=True)
    assert contents(tmp_path / "bin") == before


def test_a_full_disk_a_killed_run_and_a_second_one_do_no_harm(
    corpus: tuple[Path, Path], tmp_path: Path, run_command: Any, checkout: Path
) -> None:
    raw, theirs = corpus
    arguments = ["--trainpref", raw / "train", "--destdir", tmp_path / "bin", "--workers", "1"]
    limited = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = run_command(["python", "-c", limited, checkout / "data_prep/binarize.py", *arguments], check=False)
    assert_refused(done, "File too large")
    assert not list((tmp_path / "bin").iterdir())
    (tmp_path / "bin" / ".binarizing").mkdir()
    (tmp_path / "bin" / ".binarizing" / "train.000000.unitA.codes").write_bytes(b"remains of a run that was killed")
    held = exclusive(tmp_path / "bin" / ".binarizing")
    with held, pytest.raises(InputError, match="another run is at work on it"):
        binarize({"train": str(raw / "train")}, tmp_path / "bin")
    binarize({"train": str(raw / "train")}, tmp_path / "bin")
    expected = contents(theirs, rename=True)
    assert contents(tmp_path / "bin") == {n: data for n, data in expected.items() if n.startswith(("train", "dict"))}


def die(chunk: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binarization, "number_chunk", die)
    with pytest.raises(InputError, match="a worker process was killed.*smaller --num-workers"):
        binarize(prefixes(corpus[0]), tmp_path / "bin", workers=2)
    assert not list((tmp_path / "bin").iterdir())


# Peak memory, in kB, after each of several corpora that are binarized in chunks of 256 kB.
MEMORY = """
import resource, sys
from functools import partial
from speechdlm_ext.data import binarization
binarization.cut = partial(binarization.cut, size=1 << 18)
for prefix in sys.argv[1:]:
    binarization.binarize({"train": prefix}, prefix + "-bin")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, run_command: Any) -> None:
    line = text(np.random.default_rng(0).integers(0, 500, 1000).tolist()) + "\n"
    for name, lines in (("small", 300), ("large", 4000)):
        for channel in ("unitA", "unitB"):
            (tmp_path / f"{name}.{channel}").write_text(line * lines)
    done = run_command(["python", "-c", MEMORY, tmp_path / "small", tmp_path / "large"])
    small, large = map(int, done.stdout.split())
    assert large - small < 6_000  # kB; the frames' numbers alone are 16,000
    assert (tmp_path / "large-bin" / "train.unitB.bin").stat().st_size == 2 * 1001 * 4000
