"""All repairs, in the order in which they are applied."""

from __future__ import annotations

from .hydra import REPAIRS as HYDRA
from .numpy import REPAIRS as NUMPY
from .python import REPAIRS as PYTHON
from .repair import Repair
from .torch import REPAIRS as TORCH
from .torchaudio import REPAIRS as TORCHAUDIO

REPAIRS: list[Repair] = [*PYTHON, *HYDRA, *NUMPY, *TORCH, *TORCHAUDIO]
