"""Every block of the documentation that is marked as runnable runs, in a copy of the checkout, on less data."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BLOCK = re.compile(r"<!-- runnable -->\n```bash\n(.*?)```", re.DOTALL)
# The same commands, cut down from minutes to seconds. Each left side must occur, so that this list cannot go stale.
SMALLER = {
    "--minutes 12": "--minutes 1 --conversation-seconds 7.5",
    "--max-update 400": "--max-update 3",
    "--total-num-update 400": "--total-num-update 3",
    "--warmup-updates 60": "--warmup-updates 1",
    "--max-len-b 750": "--max-len-b 200",
    "--max-len-b 250": "--max-len-b 170",
    "optimization.max_update=20000": "optimization.max_update=2 dataset.max_tokens=1502 model.decoder_layers=2"
    " model.decoder_cross_layers=1 model.decoder_embed_dim=32 model.decoder_ffn_embed_dim=64",
}


# In this order: each page uses what those before it have made.
PAGES = ("docs/data.md", "README.md", "docs/units.md", "docs/training.md", "docs/generation.md")


def _documents(checkout: Path) -> dict[str, str]:
    paths = [checkout / "README.md", checkout / "CONTRIBUTING.md", *sorted((checkout / "docs").glob("*.md"))]
    return {str(path.relative_to(checkout)): path.read_text(encoding="utf-8") for path in paths}


def _blocks(checkout: Path) -> list[str]:
    documents = _documents(checkout)
    marked = {name for name, text in documents.items() if BLOCK.search(text)}
    assert marked == set(PAGES)
    return [block for page in PAGES for block in BLOCK.findall(documents[page])]


def _smaller(block: str) -> str:
    for full, small in SMALLER.items():
        block = block.replace(full, small)
    return block


@pytest.fixture(scope="module")
def copy(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    for name in ("speechdlm_ext", "data_prep", "scripts", "configs"):
        shutil.copytree(checkout / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.long
def test_every_runnable_block_runs(checkout, copy):
    blocks = _blocks(checkout)
    assert len(blocks) >= 6
    for full in SMALLER:
        assert sum(full in block for block in blocks), f"{full} is no longer in the documentation"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    for block in blocks:
        script = "set -eo pipefail\n" + _smaller(block)
        done = subprocess.run(["bash", "-c", script], cwd=copy, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr, done.stderr[-3000:]
    recordings = list((copy / "exp" / "corpus").glob("*.wav"))
    assert len(recordings) == 8
    split = {"dict.txt", "train.jsonl", "train.unitA", "train.unitB", "valid.jsonl", "valid.unitA", "valid.unitB"}
    assert {path.name for path in (copy / "exp" / "split").iterdir()} == split
    samples = [line for line in (copy / "exp" / "samples.jsonl").read_text().splitlines() if line]
    assert samples and len(list((copy / "exp" / "samples").glob("*.wav"))) == len(samples)
    assert (copy / "exp" / "checkpoints" / "checkpoint_best.pt").is_file()


def test_commands_that_do_not_run_here_are_such_as_their_parsers_take(checkout, monkeypatch, capsys):
    text = "\n".join(_documents(checkout).values())
    lines = re.findall(r"(?m)^ +(python (?:data_prep|scripts)/\w+\.py (?:.*\\\n)*.*)$", text)
    assert len(lines) > 12
    piped = [command for line in lines for command in line.replace("\\\n", " ").split(" | ")]
    for line in piped:
        _, script, *words = shlex.split(line, comments=True)
        monkeypatch.setattr(sys, "argv", [script, *words])
        module = runpy.run_path(str(checkout / script))
        try:
            module["get_parser"]().parse_args() if "get_parser" in module else module["parse_arguments"]()
        except SystemExit:
            pytest.fail(f"{line}\n{capsys.readouterr().err}")


def test_the_readme_is_short_enough_to_be_read(checkout):
    assert len((checkout / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_paths_and_goals_in_the_documentation_exist(checkout):
    documents = _documents(checkout)
    text = "\n".join(documents.values())
    for name in set(re.findall(r"(?:data_prep|scripts|configs|speechdlm_ext|tests)/[\w./]+\.(?:py|yaml)", text)):
        assert (checkout / name).is_file(), name
    for name, page in documents.items():
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page):
            assert (checkout / name).parent.joinpath(link).exists(), f"{name}: {link}"
    goals = set(re.findall(r"^ +make ([a-z-]+)", text, re.MULTILINE)) | set(re.findall(r"`make ([a-z-]+)", text))
    assert {"setup", "demo", "test", "lint", "bench"} <= goals
    makefile = (checkout / "Makefile").read_text(encoding="utf-8")
    for goal in goals:
        assert re.search(rf"(?m)^{goal}:", makefile), goal
