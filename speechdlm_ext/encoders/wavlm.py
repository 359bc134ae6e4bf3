"""WavLM as published by Microsoft, on torchaudio's architecture, as an encoder."""

from __future__ import annotations

import os
import re

from speechdlm_ext.encoders.frame_grid import FrameGrid
from speechdlm_ext.encoders.model_weights import (
    check_layer,
    digest_weights,
    has_batch_norm,
    load_strictly,
    needed_weights,
    read_weights,
)
from speechdlm_ext.encoders.pretrained import PretrainedEncoder
from speechdlm_ext.encoders.wavlm_model import WavLMBlocks, as_torchaudio, name_in_file, names_of, read_options
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.published import WAVLM, locate

# What pre-training needs beside the encoder.
_SPARE = re.compile(r"(mask_emb$|label_embs_concat$|final_proj\.)")


class WavLMEncoder(PretrainedEncoder):
    """The output of one block of WavLM (Chen et al., 2022); of the 11th of WavLM-Large for the units of DP-SLM.

    With ``padding=40`` zeros on both sides ``N`` samples give ``N // 320`` frames, without ``(N - 400) // 320 + 1``.
    The norm after the last block is not applied; blocks after ``layer`` are neither run nor kept. The published
    codebooks are of sound that was not normalized, although WavLM-Large was trained on sound that was.

    Args:
        checkpoint: Microsoft's file, ``{"cfg", "model"}``, or ``wavlm-large``, which is fetched when it is not in the
            cache.
        layer: the block, from 1.
        normalize: bring each channel, as a whole, to mean 0 and variance 1 first.
        padding: zeros on both sides, in samples.
        chunk_seconds: how much of a long recording is kept of one window. Attention takes memory by its square: 0.4 GB
            for each intermediate result of WavLM-Large with the 50 s that a window has by default.
        context_seconds: how much more of it the window sees on either side.
        batch_seconds: how much sound, padding included, is computed at once; None: 60 s on a CPU, 600 s on a GPU.

    Raises:
        InputError: the file is missing, or is not a WavLM whose every weight is there; there is no such layer.
    """

    name = "wavlm"

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] = "wavlm-large",
        layer: int = 11,
        normalize: bool = False,
        padding: int = 40,
        chunk_seconds: float = 40.0,
        context_seconds: float = 5.0,
        batch_seconds: float | None = None,
    ) -> None:
        if not isinstance(padding, int) or not 0 <= padding < 400:
            raise InputError(f"padding {padding}: 0 to 399 samples are wanted")
        path = locate(checkpoint, WAVLM)
        state, weights = read_weights(path)
        options = read_options(state, path)
        layer = check_layer(layer, options["encoder_layers"], path)
        if has_batch_norm(weights, path):
            raise InputError(f"{path} has a batch norm before its positional convolution, which no WavLM has")
        weights = needed_weights(weights, layer, options["encoder_layers"], _SPARE)
        digest = digest_weights(weights, {**options, "encoder_layers": layer})
        model = WavLMBlocks({**options, "encoder_layers": layer})
        names = names_of(options)
        load_strictly(model, as_torchaudio(weights, names, path), path, lambda name: name_in_file(name, names))
        given = os.fspath(checkpoint)
        super().__init__(
            model,
            FrameGrid(tuple((conv.kernel_size[0], conv.stride[0]) for conv, _ in model.stages), padding),
            dim=options["encoder_embed_dim"],
            sample_rate=16000,
            normalize=bool(normalize),
            identity={"layer": layer, "normalize": bool(normalize), "padding": padding, "weights": digest},
            options={
                "checkpoint": os.path.abspath(given) if os.path.exists(given) else given,
                "layer": layer,
                "normalize": bool(normalize),
                "padding": padding,
                "chunk_seconds": chunk_seconds,
                "context_seconds": context_seconds,
                "batch_seconds": batch_seconds,
            },
        )
