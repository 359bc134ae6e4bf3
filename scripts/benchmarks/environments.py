"""The baselines' packages in environments of their own, ``.venvs/NAME``, made at the first use.

fairseq's last release has no SpeechDLM. The package fairseq-fixed, made of its development branch, has; NeMo is
nemo-toolkit. They are installed and run, never read or changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.sides import Side
from speechdlm_ext.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2]
STAMP = "speechdlm_ext.json"


@dataclass(frozen=True)
class Environment:
    """A package and where it is installed.

    Attributes:
        name: of the folder in ``.venvs``.
        package: for pip, with its version.
        check: a line of Python that the environment must run.
        variable: of the shell, names the folder of an environment that exists instead.
    """

    name: str
    package: str
    check: str
    variable: str

    @property
    def folder(self) -> Path:
        """The environment."""
        return CHECKOUT / ".venvs" / self.name

    def python(self) -> Path:
        """The interpreter of the environment, which is made if it is not there or has another torch than ours.

        Raises:
            InputError: it cannot be made.
        """
        if given := os.environ.get(self.variable):
            return Path(given) / "bin" / "python"
        python = self.folder / "bin" / "python"
        torch = version("torch")
        expected = {"python": sys.version, "torch": torch, "package": self.package, "folder": str(self.folder)}
        try:
            made = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            made = None
        if made != expected or not python.exists():
            _make(self, torch)
            (self.folder / STAMP).write_text(json.dumps(expected), encoding="utf-8")
        return python


PUBLIC = Environment(
    "public-speechdlm", "fairseq-fixed==0.12.3.1", "from fairseq.models.speech_dlm import SpeechDLM",
    "SPEECHDLM_PUBLIC_ENVIRONMENT",
)  # fmt: skip
NEMO = Environment(
    "nemo", "nemo-toolkit[asr,speechlm2]==3.0.0", "from nemo.collections.asr.models import EncDecCTCModel",
    "SPEECHDLM_NEMO_ENVIRONMENT",
)  # fmt: skip


def public_code(settings: dict[str, Any]) -> Side:
    """The public SpeechDLM code at work, in its environment."""
    return Side("the public code", PUBLIC.python(), {**settings, "imports": ["old_numpy", "fairseq.models.speech_dlm"]})


def nemo(settings: dict[str, Any]) -> Side:
    """NeMo at work, in its environment."""
    return Side("NeMo", NEMO.python(), {**settings, "imports": []})


def _make(wanted: Environment, torch: str) -> None:
    sys.path.insert(0, str(CHECKOUT / "scripts"))
    import setup_environment as setup

    folder = wanted.folder
    about = f"bench: making {folder.relative_to(CHECKOUT)} with {wanted.package}: some minutes"
    print(about, file=sys.stderr, flush=True)
    shared = setup.version_of(Path(setup.base_interpreter()), "torch") == torch
    links = setup.find_links()
    build = torch.partition("+")[2]
    # An index that cannot be reached is asked in vain for every package, so it is named only where it is needed.
    at_hand = shared or not build or any(list(Path(place).glob(f"torch-{torch}-*.whl")) for place in links)
    index = [] if at_hand else ["--extra-index-url", f"{setup.PYTORCH_INDEX}/{build}"]
    try:
        python = setup.make_environment(folder, keep=False, system=shared)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        pip += [word for place in links for word in ("--find-links", place)]
        # By the environment, so that it holds where fairseq is compiled, too; nothing else is pinned.
        constraints = folder / "constraints.txt"
        constraints.write_text(f"torch=={torch}\n", encoding="utf-8")
        environment = {**os.environ, "PIP_CONSTRAINT": constraints.as_uri()}
        status = 0
        for expected in ([*index, "torch"], [wanted.package]):
            command = [*pip, *expected]
            status = status or subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr).returncode
    except setup.SetupError as error:
        raise InputError(f"{folder}: {error}") from error
    if status or subprocess.run([python, "-c", wanted.check], capture_output=True).returncode:
        raise InputError(f"{wanted.package} could not be installed into {folder}: the lines above say why")
