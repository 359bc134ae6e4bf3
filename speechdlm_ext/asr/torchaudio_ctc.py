"""Recognition by the CTC models of torchaudio's bundles, from their published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray

from speechdlm_ext.asr.ctc import SAMPLE_RATE, GreedyCTC, normalised
from speechdlm_ext.errors import InputError, one_line

_SERVER = "https://download.pytorch.org/torchaudio/models/"
_OUTPUT = ("aux.weight", "aux.bias")


class TorchaudioCTC(GreedyCTC):
    """A bundle such as ``WAV2VEC2_ASR_BASE_960H``, decoded greedily.

    Args:
        name: of the bundle.
        weights: its weights, as published or as ``bundle.get_model().state_dict()``; by default the file that
            torch.hub keeps. Nothing is downloaded, and nothing in the file is run.

    Raises:
        InputError: no such bundle, or its weights are missing or others.
    """

    def __init__(self, name: str, weights: str | Path | None = None) -> None:
        bundle = _bundle(name)
        path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / Path(bundle._path).name
        if not path.is_file():
            address = bundle._path if bundle._path.startswith("https:") else _SERVER + bundle._path
            raise InputError(
                f"{path}: the weights of {name} are not there; nothing is downloaded unasked: fetch {address} to it, "
                f"or pass --asr torchaudio:{name}=FILE"
            )
        self.name = f"torchaudio:{name}"
        self.files = (path,)
        self.labels = tuple(bundle.get_labels())
        self._normalise = bool(bundle._normalize_waveform)
        self.model = torchaudio.models.wav2vec2_model(**bundle._params).eval().requires_grad_(False)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(_without_unused(state, bundle))
        except Exception as error:  # of unpickling, of missing and of unexpected names
            raise InputError(f"{path}: not the weights of {name} ({one_line(error)[:300]})") from None

    def emissions(self, wave: NDArray[np.float32]) -> torch.Tensor:
        """As :class:`GreedyCTC` says."""
        with torch.inference_mode():
            return torch.as_tensor(self.model(normalised(wave, self._normalise))[0][0])


def _bundle(name: str) -> Any:
    """The recogniser of this name; those that align texts have no sign between words, and are none."""
    kinds = torchaudio.pipelines
    found = getattr(kinds, name, None)
    if _recognises(found):
        return found
    known = ", ".join(each for each in dir(kinds) if _recognises(getattr(kinds, each)))
    raise InputError(f"--asr torchaudio:{name}: no such CTC bundle; there are {known}")


def _recognises(bundle: Any) -> bool:
    wanted = isinstance(bundle, torchaudio.pipelines.Wav2Vec2ASRBundle)
    return wanted and "|" in bundle.get_labels() and bundle.sample_rate == SAMPLE_RATE


def _without_unused(state: dict[str, torch.Tensor], bundle: Any) -> dict[str, torch.Tensor]:
    """Published files still have the outputs of fairseq's own symbols, which the bundle's model has not."""
    unused = {axis for axis in bundle._remove_aux_axis or () if isinstance(axis, int)}
    outputs = len(state["aux.bias"]) if "aux.bias" in state else 0
    if outputs != bundle._params["aux_num_out"] + len(unused):
        return state
    kept = [axis for axis in range(outputs) if axis not in unused]
    return {**state, **{name: state[name][kept] for name in _OUTPUT if name in state}}
