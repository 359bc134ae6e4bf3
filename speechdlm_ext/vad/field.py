"""Speech from a field of a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from speechdlm_ext.errors import InputError
from speechdlm_ext.vad.base import Annotation, Detector


@dataclass(frozen=True)
class Field(Detector):
    """a manifest field with [[[start, end], …] for each channel] in seconds (field:NAME)."""

    name: ClassVar[str] = "field"
    reads: ClassVar[str] = "annotation"

    field: str = "speech"

    def read(
        self, name: str, row: Mapping[str, Any], units: Sequence[ArrayLike] = (), frame_rate: float = 0.0
    ) -> Annotation:
        """See :meth:`Detector.read`.

        Raises:
            InputError: the field is missing or malformed.
        """
        where = f"{name}, field {self.field}"
        value = row.get(self.field)
        if value is None:
            raise InputError(f"{where} is missing: [[[start, end], …] for each channel] in seconds is expected")
        try:
            speech = [[(float(start), float(end)) for start, end in channel] for channel in value]
        except (TypeError, ValueError):
            raise InputError(f"{where}: [[[start, end], …] for each channel] in seconds is expected") from None
        for start, end in (pair for channel in speech for pair in channel):
            if not (np.isfinite(start) and np.isfinite(end)) or start < 0 or end < start:
                raise InputError(f"{where}: 0 ≤ start ≤ end is expected, found {start:g} and {end:g}")
        return Annotation(speech)
