"""The .pth file that lets fairseq's own commands find the repairs; pyproject.toml describes the package."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

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
    """Adds the .pth file and its line in RECORD to the wheel of an editable install, which takes no other files."""

    def run(self) -> None:
        folder = Path(self.dist_dir or "dist")
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*.whl")}
        super().run()
        for wheel in folder.glob("*.whl"):
            if wheel.stat().st_mtime_ns != before.get(wheel):
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


setup(cmdclass={"build_py": BuildWithPth, "editable_wheel": EditableWithPth})
