"""The files of unit HiFi-GANs: generator, config.json, speakers.txt, styles.txt; read, written, fetched by name."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.config import write_json
from speechdlm_ext.io.downloads import cache_folder, fetch
from speechdlm_ext.io.published import Published
from speechdlm_ext.modules.unit_generator import UnitGenerator
from speechdlm_ext.modules.weight_norm import fold_weight_norm
from speechdlm_ext.modules.weights import check_finite, check_weights

_META = "https://dl.fbaipublicfiles.com/textless_nlp"
_NAMES = (
    ("speakers.txt", "2efabb7a4ad786da34fe6fbe99c3906b7abd40b2e01c81b7efde76142ae3d552"),
    ("styles.txt", "a6f63206518448277c63c3a251ac13484784829cf2e1b0a23b0860dd32543520"),
)
_CONFIG_2000 = "73932563cedc43cd1dcddfab36ce3b2c3cb76eef3423d25d1fb536ce1ec513bb"


def _expresso(units: str, checkpoint: str, config: str = _CONFIG_2000) -> tuple[Published, ...]:
    """A vocoder of Expresso (Nguyen et al. 2023), for units named as there."""
    folder = f"{_META}/expresso/checkpoints/hifigan_expresso_lj_vctk_{units}"
    files = (("generator.pt", checkpoint), ("config.json", config), *_NAMES)
    return tuple(Published(f"{folder}/{name}", digest) for name, digest in files)


# Names as in textlesslib (dGSLM's apart). The first file of each is the checkpoint.
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "dgslm-hifigan": (
        Published(f"{_META}/dgslm/checkpoints/hifigan/hifigan_vocoder", ""),
        Published(f"{_META}/dgslm/checkpoints/hifigan/config.json", ""),
    ),
    "hubert-base-ls960-layer-9-kmeans-500-hifigan": _expresso(
        "hubert_base_ls960_L9_km500",
        "d50f4704e961c29cb386924ef32cd0c3a4d1089a3f9be856f8a3b6dcfdd6147a",
        "31e65ef5e100cb43de08f2c8d225496ace1ed87a49fcb8ee44bd6805f079b1f0",
    ),
    "hubert-base-ls960-layer-9-kmeans-expresso-2000-hifigan": _expresso(
        "hubert_base_ls960_L9_km2000_expresso", "b892fdcca889f4bc6d7f0a0f407ae5d01eca8aaa66b9be333ef33a1c50f2ef52"
    ),
    "mhubert-base-vp_mls_cv_8lang-kmeans-2000-hifigan": _expresso(
        "mhubert_base_vp_mls_cv_8lang_it3_L12_km2000",
        "0d160c97519d3ed644e2ec636581b79e56767d60325308849fbb389a494c1466",
    ),
    "mhubert-base-vp_mls_cv_8lang-kmeans-expresso-2000-hifigan": _expresso(
        "mhubert_base_vp_mls_cv_8lang_it3_L12_km2000_expresso",
        "8d1585f20edd9b0982f80acbb387a892adf19e4aa719b8dea795c8fa96285cbc",
    ),
    "mhubert-base-25hz-kmeans-500-hifigan": (
        Published(
            f"{_META}/twist/speech_tokenizer/hifigan_lj_mhubert_base_25hz.pt",
            "d88224e95c501e2cd59a6e4014753169cfe060fb7ade3cc0da03c809fef73b79",
        ),
        Published(
            f"{_META}/twist/speech_tokenizer/hifigan_lj_mhubert_base_25hz_config.json",
            "116dc39be4970cd393e562acd0a0ec70a86aaba7e9ca469b8b836cb3fe46afc7",
        ),
    ),
}
_TABLES = {"dict.weight": "num_embeddings", "spkr.weight": "num_speakers", "style.weight": "num_styles"}


def find_checkpoint(path_or_name: str | os.PathLike[str]) -> Path:
    """A checkpoint: the file itself, ``generator.pt`` in a folder, or a published one by its name, which fetches it.

    Raises:
        InputError: there is neither such a file nor such a name, or it cannot be fetched.
    """
    path = Path(path_or_name)
    if path.is_dir():
        path = path / "generator.pt"
        if not path.is_file():
            raise InputError(f"{path.parent} has no generator.pt: name the checkpoint itself")
    elif not path.is_file():
        if os.fspath(path_or_name) not in PUBLISHED:
            raise InputError(f"{path}: no such checkpoint, nor the name of a published one ({', '.join(PUBLISHED)})")
        path = fetch_vocoder(os.fspath(path_or_name))
    return path


def fetch_vocoder(name: str) -> Path:
    """The checkpoint of a published vocoder, its other files beside it; each is fetched unless it is there.

    Raises:
        KeyError: there is none of this name.
        InputError: a file cannot be fetched.
    """
    checkpoint, *others = PUBLISHED[name]
    folder = cache_folder() / name
    for url, digest in others:
        fetch(url, digest, folder)
    return fetch(checkpoint.url, checkpoint.digest, folder)


def find_config(checkpoint: Path) -> Path:
    """``config.json`` beside the checkpoint, or ``<name>_config.json`` where that is there and the other is not."""
    usual, named = checkpoint.with_name("config.json"), checkpoint.with_name(f"{checkpoint.stem}_config.json")
    return named if named.is_file() and not usual.is_file() else usual


def read_names(path: Path) -> list[str]:
    """The names of speakers or styles, one a line in the order of the table; none where there is no file."""
    if not path.is_file():
        return []
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The generator's weights; the file cannot run code.

    Raises:
        InputError: the file is damaged or would run code, or is not ``{"generator": weights}``.
    """
    state = load_checkpoint(path)
    weights = state.get("generator") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        found = ", ".join(map(str, list(state)[:5])) if isinstance(state, dict) else type(state).__name__
        raise InputError(f'{path}: {{"generator": weights}} is expected, found {found or "nothing"}')
    return weights


def load_generator(path: Path, config: Mapping[str, Any]) -> UnitGenerator:
    """The generator with the weights of a checkpoint, strictly, weight norm folded, ready for use.

    Tables whose size the configuration does not give are as large as in the checkpoint.

    Raises:
        InputError: as :func:`read_weights` and :class:`UnitGenerator`, or a weight is missing, is one too many, is of
            another shape or is not a finite number.
    """
    weights = fold_weight_norm(read_weights(path), str(path))
    config = dict(config)
    for name, option in _TABLES.items():
        if name in weights and weights[name].dim() == 2:
            config.setdefault(option, len(weights[name]))
    generator = UnitGenerator(config)
    generator.fold_weight_norm()
    hint = "take the config.json that belongs to it"
    shown = {name: f"{name} (config.json: {option})" for name, option in _TABLES.items()}
    check_weights(generator, weights, str(path), hint, lambda name: shown.get(name, name))
    generator.load_state_dict(weights)
    check_finite(generator, str(path))
    return generator.eval().requires_grad_(False)


def write_vocoder(
    folder: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    speakers: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a vocoder in the published form; the checkpoint comes last, so that a folder that has it is whole.

    Args:
        folder: gets ``config.json``, ``speakers.txt`` (where there are any) and ``generator.pt``.
        weights: of a :class:`UnitGenerator`.
        config: its options, and further facts to keep.
        speakers: names of the speakers.
        overwrite: replace a vocoder that is there.

    Returns:
        The checkpoint.

    Raises:
        InputError: a vocoder is there already.
    """
    folder = Path(folder)
    checkpoint = folder / "generator.pt"
    if checkpoint.exists() and not overwrite:
        raise InputError(f"{checkpoint} exists already: pass --overwrite to replace it")
    checkpoint.unlink(missing_ok=True)
    write_json(folder / "config.json", dict(config), sort_keys=True)
    if speakers:
        with atomic_write(folder / "speakers.txt") as file:
            file.writelines(f"{name}\n" for name in speakers)
    buffer = io.BytesIO()
    torch.save({"generator": {name: tensor.detach().cpu() for name, tensor in weights.items()}}, buffer)
    with atomic_write(checkpoint, "wb") as file:
        file.write(buffer.getvalue())
    return checkpoint
