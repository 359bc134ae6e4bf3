"""Repairs of fairseq itself, by subject."""

from .archives import REPAIRS as _ARCHIVES
from .configs import REPAIRS as _CONFIGS
from .curves import REPAIRS as _CURVES
from .distributed import REPAIRS as _DISTRIBUTED
from .expressions import REPAIRS as _EXPRESSIONS
from .layers import REPAIRS as _LAYERS
from .patience import REPAIRS as _PATIENCE
from .precision import REPAIRS as _PRECISION
from .saving import REPAIRS as _SAVING
from .updates import REPAIRS as _UPDATES

REPAIRS = [
    *_ARCHIVES,
    *_CONFIGS,
    *_PRECISION,
    *_LAYERS,
    *_DISTRIBUTED,
    *_SAVING,
    *_PATIENCE,
    *_UPDATES,
    *_CURVES,
    *_EXPRESSIONS,
]
