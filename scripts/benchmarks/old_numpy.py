"""Names that numpy has dropped and the public code still uses; imported by its worker before it."""

import types

import numpy

for name, kind in {"int": int, "float": float, "bool": bool, "compat": types.SimpleNamespace(long=int)}.items():
    if name not in vars(numpy):
        setattr(numpy, name, kind)
