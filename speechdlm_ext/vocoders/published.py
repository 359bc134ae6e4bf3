"""Published unit HiFi-GANs by name, fetched into the cache folder with what belongs to them."""

from __future__ import annotations

from pathlib import Path

from speechdlm_ext.io.downloads import cache_folder, fetch
from speechdlm_ext.io.published import Published

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
VOCODERS: dict[str, tuple[Published, ...]] = {
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


def fetch_vocoder(name: str) -> Path:
    """The checkpoint of a published vocoder, its other files beside it; each is fetched unless it is there.

    Raises:
        KeyError: there is none of this name.
        InputError: a file cannot be fetched.
    """
    checkpoint, *others = VOCODERS[name]
    folder = cache_folder() / name
    for url, digest in others:
        fetch(url, digest, folder)
    return fetch(checkpoint.url, checkpoint.digest, folder)
