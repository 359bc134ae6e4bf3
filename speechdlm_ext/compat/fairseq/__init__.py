"""Repairs of fairseq itself, by subject."""

from .configs import REPAIRS as _CONFIGS
from .distributed import REPAIRS as _DISTRIBUTED
from .early_stopping import REPAIRS as _PATIENCE
from .half_precision import REPAIRS as _PRECISION
from .layers import REPAIRS as _LAYERS
from .safe_eval import REPAIRS as _EXPRESSIONS
from .safe_extract import REPAIRS as _ARCHIVES
from .saving import REPAIRS as _SAVING
from .tensorboard import REPAIRS as _CURVES
from .trainer_hooks import REPAIRS as _UPDATES

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
