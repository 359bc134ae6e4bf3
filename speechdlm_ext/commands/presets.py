"""``--preset``: the options of a published chain, encoder to vocoder, as defaults of a command that has them.

An option that is given counts; files at hand take the place of what would be fetched.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.published import CODEBOOKS
from speechdlm_ext.units.published_pairs import PUBLISHED

Defaults = dict[str, Any]


class Preset(NamedTuple):
    """A published chain.

    Attributes:
        help: what it is, in a few words.
        defaults: values by the options' names, from the options that were given (``k`` and ``lmbda`` among them).
    """

    help: str
    defaults: Callable[[argparse.Namespace], Defaults]


def _dpslm(given: argparse.Namespace) -> Defaults:
    """DP-SLM: WavLM-Large's layer 11, duration-penalized units, ELLA-V, WavTokenizer."""
    k = 500 if given.k is None else given.k
    penalty = 4500.0 if given.lmbda is None else given.lmbda
    pair = f"k{k}-l{penalty:g}"
    defaults: Defaults = {
        "codebook": f"wavlm-large-l11-k{k}",
        "duration_penalty": pair if pair in PUBLISHED else f"{penalty:g}",
        "num_neighbors": None if pair in PUBLISHED else max(1, k // 20),
        "vocoder": "wavtokenizer",
        "acoustic": f"ellav-{pair}",
        "predict_durations": True,
    }
    if given.codebook is None or not _names_its_encoder(given.codebook):
        defaults["encoder"] = "wavlm"
    return defaults


def _names_its_encoder(codebook: str) -> bool:
    from speechdlm_ext.units.codebook_files import load_codebook

    return bool(load_codebook(codebook).encoder)


_MHUBERT = "mhubert-base-vp_mls_cv_8lang"
_AMELA = f"{_MHUBERT}-kmeans-2000"


def _amela(given: argparse.Namespace) -> Defaults:
    """AMELA: mHuBERT's layer 12, k-means of 2000, Expresso's unit HiFi-GAN; a unit a frame, so that time is kept."""
    if given.k not in (None, 2000) or given.lmbda:
        raise InputError("--preset amela: 2000 units, no duration penalty: omit --k and --lmbda")
    from speechdlm_ext.vocoders.hifigan_files import PUBLISHED as VOCODER_FILES

    codebook = _AMELA if given.codebook is None else str(given.codebook)
    defaults: Defaults = {"codebook": codebook, "vocoder": "hifigan"}
    if codebook in CODEBOOKS or not _names_its_encoder(codebook):
        defaults |= {"encoder": "hubert", "encoder_checkpoint": _MHUBERT, "layer": 12}
    if f"{codebook}-hifigan" in VOCODER_FILES:
        defaults["vocoder_checkpoint"] = f"{codebook}-hifigan"
    elif given.vocoder_checkpoint is None:
        raise InputError(
            f"--codebook {codebook}: pass the --vocoder-checkpoint that belongs to it; the two published codebooks, "
            f"{_AMELA} and {_MHUBERT}-kmeans-expresso-2000, have one each"
        )
    return defaults


# To add a preset, write a function like those above, and name it here.
PRESETS = {
    "dpslm": Preset("DP-SLM's WavLM, units of --k and --lmbda, ELLA-V and WavTokenizer", _dpslm),
    "amela": Preset("AMELA's mHuBERT, 2000 units and Expresso's unit HiFi-GAN", _amela),
}


def add_preset_options(parser: argparse.ArgumentParser) -> None:
    """``--preset`` and what belongs to it, read by :func:`parse_with_preset`."""
    known = "; ".join(f"{name}: {preset.help}" for name, preset in PRESETS.items())
    group = parser.add_argument_group("preset")
    group.add_argument("--preset", choices=tuple(PRESETS), help=f"defaults of the other options: {known}")
    group.add_argument("--k", type=int, help="units of the preset's codebook (dpslm: 500)")
    group.add_argument("--lmbda", type=float, help="the preset's duration penalty λ (dpslm: 4500)")


def parse_with_preset(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of the command line, what is not given being the preset's, if one is named."""
    given = parser.parse_args()
    if given.preset is None:
        if given.k is not None or given.lmbda is not None:
            parser.error("--k and --lmbda are of a --preset")
        return given
    defaults = PRESETS[given.preset].defaults(given)
    parser.set_defaults(**{name: value for name, value in defaults.items() if hasattr(given, name)})
    return parser.parse_args()
