"""The public SpeechDLM code in an environment of its own, ``.venvs/public-speechdlm``, made at the first use.

fairseq's last release has no SpeechDLM. The package fairseq-fixed, made of its development branch, has; it is installed
and run, never read or changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.sides import Side
from speechdlm_ext.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER = CHECKOUT / ".venvs" / "public-speechdlm"
PACKAGE = "fairseq-fixed==0.12.3.1"
STAMP = "speechdlm_ext.json"
CHECK = "from fairseq.models.speech_dlm import SpeechDLM"


def public_code(settings: dict[str, Any]) -> Side:
    """The public code at work, in its environment."""
    return Side("the public code", environment(), {**settings, "imports": ["old_numpy", "fairseq.models.speech_dlm"]})


def environment() -> Path:
    """The interpreter of the environment, which is made if it is not there or has another torch than ours.

    Raises:
        InputError: it cannot be made.
    """
    from importlib.metadata import version

    python = FOLDER / "bin" / "python"
    expected = {"python": sys.version, "torch": version("torch"), "package": PACKAGE, "folder": str(FOLDER)}
    try:
        made = json.loads((FOLDER / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = None
    if made != expected or not python.exists():
        _make(expected["torch"])
        (FOLDER / STAMP).write_text(json.dumps(expected), encoding="utf-8")
    return python


def _make(torch: str) -> None:
    sys.path.insert(0, str(CHECKOUT / "scripts"))
    import setup_environment as setup

    print(f"bench: making {FOLDER.relative_to(CHECKOUT)} with {PACKAGE}: a few minutes", file=sys.stderr, flush=True)
    shared = setup.version_of(Path(setup.base_interpreter()), "torch") == torch
    links = setup.find_links()
    build = torch.partition("+")[2]
    # An index that cannot be reached is asked in vain for every package, so it is named only where it is needed.
    at_hand = shared or not build or any(list(Path(place).glob(f"torch-{torch}-*.whl")) for place in links)
    index = [] if at_hand else ["--extra-index-url", f"{setup.PYTORCH_INDEX}/{build}"]
    try:
        python = setup.make_environment(FOLDER, keep=False, system=shared)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        pip += [word for place in links for word in ("--find-links", place)]
        # By the environment, so that it holds where fairseq is compiled, too; nothing else is pinned.
        constraints = FOLDER / "constraints.txt"
        constraints.write_text(f"torch=={torch}\n", encoding="utf-8")
        environment = {**os.environ, "PIP_CONSTRAINT": constraints.as_uri()}
        status = 0
        for expected in ([*index, "torch"], [PACKAGE]):
            command = [*pip, *expected]
            status = status or subprocess.run(command, cwd=FOLDER, env=environment, stdout=sys.stderr).returncode
    except setup.SetupError as error:
        raise InputError(f"{FOLDER}: {error}") from error
    if status or subprocess.run([python, "-c", CHECK], capture_output=True).returncode:
        raise InputError(f"{PACKAGE} could not be installed into {FOLDER}: the lines above say why")
