"""The package, and the .pth file that lets fairseq's own commands find the repairs of ``speechdlm_ext.compat``."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

VERSION = "0.1.0"

# `fairseq-train` imports fairseq before it reads --user-dir, so something must be there before fairseq is: Python runs
# the lines of .pth files at start-up. The name sorts after that of an editable install's own .pth (`__editable__…`),
# which puts the checkout on the path. Its one line holds all that runs at start-up: finding and loading a module, be it
# ever so small, would cost more than the rest. Where the package is gone, or broken, Python goes on without it.
PTH_NAME = "speechdlm_ext.pth"
PTH_CODE = """\
import sys
class FirstImport:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("fairseq", "fairseq_cli", "hydra", "omegaconf", "torchaudio"):
            try:
                from speechdlm_ext_bootstrap import first_import
            except Exception:
                return None
            return first_import(FirstImport, name, path, target)
if __name__ not in [getattr(finder, "__module__", "") for finder in sys.meta_path]:
    sys.meta_path.insert(0, FirstImport)
"""  # the last condition: in a virtual environment, Python runs its .pth files twice
PTH_LINE = f"import sys; exec({PTH_CODE!r}, {{'__name__': {PTH_NAME!r}}})\n"


class BuildWithPth(build_py):
    """Puts the .pth file beside the packages, so that it is part of the wheel and of its RECORD."""

    def run(self) -> None:
        super().run()
        if not getattr(self, "editable_mode", False):
            Path(self.build_lib, PTH_NAME).write_text(PTH_LINE, encoding="ascii")


class EditableWithPth(editable_wheel):
    """Adds the .pth file and its line in RECORD to the wheel of an editable install."""

    def run(self) -> None:
        super().run()
        for wheel in Path(self.dist_dir).glob("*.whl"):
            _add_pth(wheel)


def _add_pth(wheel: Path) -> None:
    """Rewrite ``wheel`` with the .pth file in it; nothing else in it changes."""
    content = PTH_LINE.encode("ascii")
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode("ascii")
    with zipfile.ZipFile(wheel) as old:
        members = {info: old.read(info) for info in old.infolist()}
    if any(info.filename == PTH_NAME for info in members):
        return
    rewritten = wheel.with_suffix(".tmp")
    with zipfile.ZipFile(rewritten, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr(PTH_NAME, content)
        for info, data in members.items():
            if info.filename.endswith(".dist-info/RECORD"):
                data += f"{PTH_NAME},sha256={digest},{len(content)}\n".encode("ascii")
            new.writestr(info, data)
    os.replace(rewritten, wheel)


DEMO = [
    "espeakng-loader>=0.2",  # the voices of the made-up conversations (espeak-ng, GPL-3.0-or-later)
]
EVAL = [
    "jiwer>=4",  # word and character error rates
    "matplotlib>=3.6",
    "pocketsphinx>=5",  # a recogniser with its weights in the package
    "silero-vad>=6.2",  # speech activity, likewise
]
DEV = [
    "hypothesis>=6",
    "mypy>=1.10",
    "pyannote-core>=6",  # the baseline of the benchmark of turn-taking
    "pytest>=8",
    "pytest-xdist>=3.7",  # the tests are mostly commands that keep one core busy
    "ruff>=0.6",
    "selenium>=4.20",  # the report is tested in a real Chromium
    "setuptools>=64",  # the tests build the wheel without a network
]

setup(
    name="speechdlm_ext",
    version=VERSION,
    description="Spoken-dialogue language models for stock fairseq: learn conversation from raw two-channel audio",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    if Path(__file__).with_name("README.md").is_file()
    else "",
    long_description_content_type="text/markdown",
    author="speechdlm_ext authors",
    license="MIT",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    # An explicit root makes the editable install one line with a folder: setuptools' other way, a finder, costs several
    # milliseconds at every start of Python.
    package_dir={"": "."},
    packages=find_packages(include=["speechdlm_ext", "speechdlm_ext.*"]),
    py_modules=["speechdlm_ext_bootstrap"],
    package_data={"": ["assets/*", "py.typed"]},
    install_requires=[
        "fairseq>=0.12.2",
        "npy-append-array>=0.9.16",
        "numba>=0.59",  # compiles the search of the duration-penalized quantizer
        "numpy>=1.23",
        "safetensors>=0.4",
        "scikit-learn>=1.2",
        "scipy>=1.9",
        "sentencepiece>=0.1.97",
        "soundfile>=0.12",
        "soxr>=0.5",
        "tensorboard>=2.12",
        "torch>=2.6",  # before 2.6, torch.load(weights_only=True) could still be made to run code (CVE-2025-32434)
        "torchaudio>=2.6",
        "tqdm>=4.60",
    ],
    extras_require={"demo": DEMO, "eval": EVAL, "dev": DEMO + EVAL + DEV},
    cmdclass={"build_py": BuildWithPth, "editable_wheel": EditableWithPth},
    zip_safe=False,
)
