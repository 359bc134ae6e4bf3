"""Run fairseq's own tests against the installed fairseq with this package's repairs; `make test-fairseq` is this.

FOLDER is the folder `tests` of fairseq's repository at the tag v0.12.2 (which is not part of its release), beside its
folder `scripts`. What needs a network, a GPU, xFormers or iopath is skipped. What follows `--` goes to pytest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command

CANNOT_RUN_HERE = (
    "test_hf_hub.py",  # network
    "test_iopath.py",  # iopath
    "test_plasma_utils.py",  # a server of pyarrow's that no longer exists
    "test_sparse_multihead_attention.py",
    "gpu",
)


def main() -> int:
    """Run the tests; the status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="fairseq's tests")
    parser.add_argument("pytest", nargs="*", default=[], help="arguments for pytest")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if not (folder / "test_train.py").is_file():
        raise InputError(f"{arguments.folder}: has no test_train.py: the folder `tests` of fairseq v0.12.2 is expected")
    with tempfile.TemporaryDirectory() as name:
        # Without the folder `fairseq` of the repository, which would be imported instead of the installed one.
        root = Path(name)
        for part in ("tests", "scripts", "examples"):
            if (folder.parent / part).is_dir():
                (root / part).symlink_to(folder.parent / part)
        return run_tests(root, arguments.pytest)


def run_tests(root: Path, options: list[str]) -> int:
    """pytest's status; ``root`` holds the folder ``tests`` and what it imports."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(root)]
    command += ["-k", "not xformers and not from_pretrained", "-c", os.devnull, "--import-mode=prepend"]
    command += [f"--ignore={root / 'tests' / name}" for name in CANNOT_RUN_HERE]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run([*command, str(root / "tests"), *options], cwd=root, env=environment).returncode


if __name__ == "__main__":
    run_command(main)
