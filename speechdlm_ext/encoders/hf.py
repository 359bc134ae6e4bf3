"""Any audio encoder of Hugging Face transformers (extra [hf]), by folder or name: the output of one of its blocks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from speechdlm_ext.encoders.chunking import FrameGrid, to_device
from speechdlm_ext.encoders.model_weights import check_layer, digest_weights
from speechdlm_ext.encoders.pretrained import PretrainedEncoder, SpeechModel
from speechdlm_ext.errors import InputError, one_line, optional_import
from speechdlm_ext.modules.padding import frame_mask

# What differs between configurations of equal models: names, versions, training.
_NO_FACTS = ("_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype", "id2label", "label2id")
_GRIDS = {
    "whisper": ((320, 320),),  # log-mel frames of 10 ms, two by two
    "wav2vec2-bert": ((400, 160), (2, 2)),
}


class TransformersEncoder(PretrainedEncoder):
    """The output of one block of a transformers model, before any norm that follows the last block.

    Models that take sound (wav2vec 2.0, HuBERT, WavLM, data2vec-audio, UniSpeech, SEW …) give ``N`` samples the frames
    of their convolutions; Whisper gives ``N // 320``, w2v-BERT 2.0 ``((N - 400) // 160 + 1) // 2``. Sounds of
    different lengths are computed together where the model's attention mask makes that exact; where it does not, as
    with a group norm over time, those of equal length are.

    Args:
        checkpoint: a folder with ``config.json``, ``preprocessor_config.json`` and weights, or a name on the hub.
        layer: the block, from 1.
        chunk_seconds: how much of a long recording is kept of one window; of Whisper with its context at most 30 s.
        context_seconds: how much more of it the window has on either side.

    Raises:
        InputError: transformers is not installed, the model cannot be loaded, is no audio encoder, or has no such
            layer.
    """

    name = "hf"

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        layer: int | None = None,
        chunk_seconds: float = 20.0,
        context_seconds: float = 5.0,
    ) -> None:
        given = os.fspath(checkpoint)
        model, extractor = _load(given)
        config = model.config
        model = getattr(model, "encoder", model) if config.model_type == "whisper" else model
        kind = config.model_type
        if kind in _GRIDS:
            grid = FrameGrid(_GRIDS[kind])
        elif model.main_input_name == "input_values" and hasattr(config, "conv_kernel"):
            grid = FrameGrid(tuple(zip(config.conv_kernel, config.conv_stride, strict=True)))
        else:
            raise InputError(f"{given}: a model of the type {kind}, which is no audio encoder that is known here")
        if kind == "whisper" and chunk_seconds + 2 * context_seconds > 30:
            raise InputError(
                f"chunk_seconds {chunk_seconds:g} and twice context_seconds {context_seconds:g}: whisper takes 30 s"
            )
        blocks = _blocks(model, given)
        layer = check_layer(layer, len(blocks), given)
        del blocks[layer:]
        facts = {key: value for key, value in config.to_dict().items() if key not in _NO_FACTS}
        normalize = kind not in _GRIDS and bool(getattr(extractor, "do_normalize", False))
        super().__init__(
            _Blocks(model, blocks[-1], extractor, grid),
            grid,
            dim=config.d_model if kind == "whisper" else config.hidden_size,
            sample_rate=int(extractor.sampling_rate),
            normalize=normalize,
            identity={
                "layer": layer,
                "normalize": normalize,
                "weights": digest_weights({k: v.float() for k, v in model.state_dict().items()}, facts),
            },
            options={
                "checkpoint": os.path.abspath(given) if os.path.exists(given) else given,
                "layer": layer,
                "chunk_seconds": chunk_seconds,
                "context_seconds": context_seconds,
            },
            eps=1e-7,  # as in transformers' feature extractors
        )


class _Blocks(SpeechModel):
    """A transformers model up to one of its blocks."""

    def __init__(self, model: Any, block: nn.Module, extractor: Any, grid: FrameGrid) -> None:
        super().__init__(())
        self.model, self._extractor, self._grid = model, extractor, grid
        self._masked = getattr(model.config, "feat_extract_norm", "layer") == "layer"
        self._features = torch.zeros(0)
        block.register_forward_hook(self._keep)

    def compute_in(self, device: torch.device, dtype: torch.dtype) -> None:
        self.to(device=device, dtype=dtype)
        self.dtype = dtype

    def forward(self, waves: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Features (B, T, D) of sounds (B, N), of which ``lengths`` samples count; beyond their frames, anything."""
        if self.model.main_input_name == "input_features":
            return self._of_features(waves, lengths)
        if self._masked and min(lengths) < waves.shape[1]:
            mask = frame_mask(torch.tensor(lengths), waves.shape[1])
            return self._run(waves.to(self.dtype), attention_mask=to_device(mask.long(), waves.device))
        if min(lengths) == waves.shape[1]:
            return self._run(waves.to(self.dtype))
        longest = self._grid.padded_frames(waves.shape[1])
        found = [self._run(wave[None, :count].to(self.dtype))[0] for wave, count in zip(waves, lengths, strict=True)]
        return torch.stack([nn.functional.pad(one, (0, 0, 0, longest - len(one))) for one in found])

    def _of_features(self, waves: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Of models that take mel spectra, which their own extractor makes on the CPU."""
        sounds = [wave[:count].cpu().numpy() for wave, count in zip(waves, lengths, strict=True)]
        inputs = self._extractor(sounds, sampling_rate=self._extractor.sampling_rate, return_tensors="pt")
        named = {name: to_device(value, waves.device) for name, value in inputs.items()}
        named["input_features"] = named["input_features"].to(self.dtype)
        return self._run(**named)

    def _run(self, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        self.model(*inputs, **named)
        found, self._features = self._features, torch.zeros(0)
        return found

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._features = output[0] if isinstance(output, tuple) else output


def _load(given: str) -> tuple[Any, Any]:
    """The model, and what says its sample rate and normalization."""
    with optional_import("the encoder hf needs transformers", "hf"):
        from transformers import AutoFeatureExtractor, AutoModel
    offline = os.environ.get("SPEECHDLM_OFFLINE") == "1"
    try:
        # No code of the repository is run, and weights are read without running them.
        extractor = AutoFeatureExtractor.from_pretrained(given, local_files_only=offline)
        model = AutoModel.from_pretrained(given, local_files_only=offline, use_safetensors=None)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{given}: no audio model of transformers ({one_line(error)[:300]})") from None
    return model.eval(), extractor


def _blocks(model: Any, given: str) -> nn.ModuleList:
    """The list of the model's blocks."""
    count = getattr(model.config, "encoder_layers", None) or model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "layers" and len(module) == count:
            return module
    raise InputError(f"{given}: no list of {count} blocks in this model")
