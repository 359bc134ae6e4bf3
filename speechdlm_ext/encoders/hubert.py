"""HuBERT checkpoints of fairseq as an encoder: base, large, multilingual, Fisher, at 50 or 25 Hz."""

from __future__ import annotations

import os
import re

from speechdlm_ext.compat.quiet_imports import quiet
from speechdlm_ext.encoders.frame_grid import FrameGrid
from speechdlm_ext.encoders.hubert_model import FACTS, HubertBlocks, name_in_file, positions_as_here, read_options
from speechdlm_ext.encoders.model_weights import (
    check_layer,
    digest_weights,
    has_batch_norm,
    load_strictly,
    needed_weights,
    read_weights,
)
from speechdlm_ext.encoders.pretrained import PretrainedEncoder
from speechdlm_ext.io.published import HUBERT, locate

# What pre-training needs beside the encoder.
_SPARE = re.compile(
    r"(mask_emb$|label_embs_concat$|final_proj\.|target_glu\.|encoder\.pos_conv\.0\.num_batches_tracked)"
)


class HubertEncoder(PretrainedEncoder):
    """The output of one block of a HuBERT model (Hsu et al., 2021), as fairseq's ``extract_features`` gives it.

    ``N`` samples give ``(N - 400) // 320 + 1`` frames with the usual convolutions. The sound is layer-normed as a
    whole where the task of the checkpoint says so (``normalize``), and only there. Blocks after ``layer`` are neither
    run nor kept. Sound longer than ``chunk_seconds + context_seconds`` is cut into windows; docs/encoders.md says what
    that changes.

    Args:
        checkpoint: a file of fairseq-train, with its options as ``cfg`` or ``args``, or a published name
            (``hubert-base-ls960``, ``mhubert-base-vp_mls_cv_8lang``, …), which is fetched when it is not in the cache.
        layer: the block, from 1.
        chunk_seconds: how much of a long recording is kept of one window.
        context_seconds: how much more of it the window sees on either side.
        batch_seconds: how much sound, padding included, is computed at once; None: 60 s on a CPU, 600 s on a GPU.

    Raises:
        InputError: the file is missing, or is not a HuBERT whose every weight is there; there is no such layer.
    """

    name = "hubert"

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        layer: int | None = None,
        chunk_seconds: float = 100.0,
        context_seconds: float = 5.0,
        batch_seconds: float | None = None,
    ) -> None:
        path = locate(checkpoint, HUBERT)
        with quiet():
            import fairseq.models.hubert  # noqa: F401 - the classes that checkpoints name

        state, weights = read_weights(path)
        options, task = read_options(state, path)
        layer = check_layer(layer, options["encoder_layers"], path)
        batch_norm = has_batch_norm(weights, path)
        weights = needed_weights(weights, layer, options["encoder_layers"], _SPARE)
        facts = {name: options[name] for name in FACTS} | {"encoder_layers": layer}
        digest = digest_weights(weights, facts)
        model = HubertBlocks({**options, "encoder_layers": layer}, batch_norm)
        there = positions_as_here(weights, batch_norm, str(path))
        load_strictly(model, there, path, str if batch_norm else name_in_file)
        given = os.fspath(checkpoint)
        super().__init__(
            model,
            FrameGrid(tuple((conv.kernel_size[0], conv.stride[0]) for conv, _ in model.stages)),
            dim=options["encoder_embed_dim"],
            sample_rate=int(task["sample_rate"]),
            normalize=bool(task["normalize"]),
            identity={"layer": layer, "normalize": bool(task["normalize"]), "weights": digest},
            options={
                "checkpoint": os.path.abspath(given) if os.path.exists(given) else given,
                "layer": layer,
                "chunk_seconds": chunk_seconds,
                "context_seconds": context_seconds,
                "batch_seconds": batch_seconds,
            },
        )
