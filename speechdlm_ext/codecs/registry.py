"""The registry of codecs, and how one is built."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from speechdlm_ext.errors import InputError

if TYPE_CHECKING:  # a command's --help does not wait for torch
    import torch

    from speechdlm_ext.codecs.base import Codec


class Registered(NamedTuple):
    """A codec in the registry: ``module:class``, imported when asked for, and what it is, in a few words."""

    path: str
    help: str


# To add a codec, write a file with a class like Codec and name it here.
CODECS = {
    "encodec": Registered("speechdlm_ext.codecs.encodec:EncodecCodec", "EnCodec, by transformers"),
    "mimi": Registered("speechdlm_ext.codecs.mimi:MimiCodec", "Mimi, by transformers"),
    "nemo": Registered("speechdlm_ext.codecs.nemo:NemoCodec", "NeMo's audio codec, from a .nemo file"),
    "units": Registered("speechdlm_ext.codecs.units:UnitsCodec", "units of a codebook, and a vocoder"),
    "wavtokenizer": Registered("speechdlm_ext.codecs.wavtokenizer:WavTokenizerCodec", "WavTokenizer"),
}


def build_codec(spec: str, num_codebooks: int | None = None, device: str | torch.device | None = None) -> Codec:
    """The codec of ``KIND:MODEL``, for example ``wavtokenizer:small_600_24k_4096`` or ``mimi:kyutai/mimi``.

    Args:
        spec: a name in ``CODECS``, and what its ``usage`` says.
        num_codebooks: that are used, where there are several; None for all.
        device: where it computes; None for the CPU.

    Raises:
        InputError: it is unknown or not installed, its files are missing or invalid, or it has fewer codebooks.
    """
    kind, _, model = spec.partition(":")
    if kind not in CODECS:
        raise InputError(f"codec {spec!r}: there is {', '.join(CODECS)}, each followed by a colon and its model")
    module, _, name = CODECS[kind].path.partition(":")
    cls = getattr(import_module(module), name)
    if not model:
        raise InputError(f"codec {spec!r}: {kind}:{cls.usage} is expected")
    codec: Codec = cls.from_spec(model, num_codebooks)
    if num_codebooks is not None and codec.num_codebooks != num_codebooks:
        raise InputError(f"codec {spec}: it has {codec.num_codebooks} codebooks, {num_codebooks} were asked for")
    return codec.to(device).eval() if device is not None else codec.eval()
