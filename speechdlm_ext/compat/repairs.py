"""All repairs, in the order in which they are applied.

Only ``from .module import name`` is used in this room: ``from . import module`` and ``from .package.module import
name`` also import the parent package, and so all that this room must not wait for.
"""

from __future__ import annotations

from .commands import REPAIRS as COMMANDS
from .fairseq import REPAIRS as FAIRSEQ
from .hydra import REPAIRS as HYDRA
from .numpy import REPAIRS as NUMPY
from .python import REPAIRS as PYTHON
from .registry import REPAIRS as REGISTRY
from .repair import Repair
from .sweeps import REPAIRS as SWEEPS
from .torch import REPAIRS as TORCH
from .torchaudio import REPAIRS as TORCHAUDIO

REPAIRS: list[Repair] = [*PYTHON, *HYDRA, *NUMPY, *TORCH, *TORCHAUDIO, *FAIRSEQ, *REGISTRY, *COMMANDS, *SWEEPS]
