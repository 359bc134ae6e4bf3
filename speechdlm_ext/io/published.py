"""Published checkpoints by name: where they are, and their digests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.downloads import cache_folder, fetch


class Published(NamedTuple):
    """A published file.

    Attributes:
        url: where it is.
        digest: its SHA-256 in hexadecimal, or the first digits of it.
    """

    url: str
    digest: str


_META = "https://dl.fbaipublicfiles.com"
_WAVLM = "https://github.com/nicolvisser/WavLM-codebooks/releases/download/v0.1.0"

HUBERT = {
    "hubert-base-ls960": Published(
        f"{_META}/hubert/hubert_base_ls960.pt",
        "1703cf8d2cdc76f8c046f5f6a9bcd224e0e6caf4744cad1a1f4199c32cac8c8d",
    ),
    "mhubert-base-vp_en_es_fr": Published(
        f"{_META}/hubert/mhubert_base_vp_en_es_fr_it3.pt",
        "23527cd6311a6617bfa199f574e2eed478cd6a58a634f4007165c10ec0019832",
    ),
    "mhubert-base-vp_mls_cv_8lang": Published(
        f"{_META}/hubert/mhubert_base_vp_mls_cv_8lang_it3.pt",
        "fa82eaccb557465f4732662e3a744c30c953059147ac6a4c92f1f3e0daeda61e",
    ),
    "mhubert-base-25hz": Published(
        f"{_META}/textless_nlp/twist/speech_tokenizer/mhubert_base_25hz_cp_mls_cv_sp_fisher.pt",
        "edf0f5be2581a568a236aeb2781a5607c5af25806e12f40f7f2391e861fe3cf0",
    ),
}
WAVLM = {"wavlm-large": Published(f"{_WAVLM}/wavlm-large-6fb4b3c3.pt", "6fb4b3c3")}
CODEBOOKS = {
    # DP-SLM's, of K centroids of WavLM-Large's layer 11.
    **{
        f"wavlm-large-l11-k{units}": Published(f"{_WAVLM}/codebook-layer-11-k-{units}-{digest}.pt", digest)
        for units, digest in (
            (100, "8b2b254e"),
            (200, "55b06314"),
            (500, "2c2dee95"),
            (1000, "db31d361"),
            (2000, "af7a6260"),
        )
    },
    # AMELA's, of layer 12 of mhubert-base-vp_mls_cv_8lang: of the same size, and not interchangeable.
    "mhubert-base-vp_mls_cv_8lang-kmeans-2000": Published(
        f"{_META}/hubert/mhubert_base_vp_mls_cv_8lang_it3_L12_km2000.bin",
        "05de230870427dcdce334d29922ccce354c7e7d0574edc645f5daed47b1ccc18",
    ),
    "mhubert-base-vp_mls_cv_8lang-kmeans-expresso-2000": Published(
        f"{_META}/textless_nlp/expresso/checkpoints/mhubert_base_vp_mls_cv_8lang_it3_L12_km2000_expresso.bin",
        "bda2dbf5fe42bf59359799b281498a9d7fd0a9ec703d6dc54a4a4a0ff70a4e22",
    ),
}


def locate(path_or_name: str | os.PathLike[str], table: dict[str, Published]) -> Path:
    """The path of a file that is given by its path, or by a published name, which fetches it into the cache.

    Raises:
        InputError: there is no such file, nor such a name; or it cannot be fetched.
        OSError: the cache folder cannot be written to, or the disk is full.
    """
    given = os.fspath(path_or_name)
    if os.path.exists(given):
        return Path(given)
    if given not in table:
        raise InputError(f"{given}: no such file, nor the name of a published one ({', '.join(table)})")
    url, digest = table[given]
    return fetch(url, digest, cache_folder() / given)
