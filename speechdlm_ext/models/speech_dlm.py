"""The SpeechDLM: a language model of spoken dialogue over parallel channels of units (Nguyen et al. 2022)."""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch.nn.functional as F
from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import FairseqLanguageModel, register_model, register_model_architecture
from omegaconf import II
from torch import Tensor

from speechdlm_ext.data.flags import cross_weights, flag
from speechdlm_ext.errors import InputError
from speechdlm_ext.models.speech_dlm_decoder import SpeechDLMDecoder
from speechdlm_ext.modules.weights import check_weights

DEFAULT_MAX_TARGET_POSITIONS = 1024


@dataclass
class SpeechDLMConfig(FairseqDataclass):
    """Options of the published model, with their published names and defaults."""

    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(  # type: ignore[valid-type]
        default="relu", metadata={"help": "activation function of the feed-forward blocks"}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout probability"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout probability for attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout probability after the activation"})
    relu_dropout: float = field(default=0.0, metadata={"help": "older name of --activation-dropout"})
    decoder_embed_dim: int = field(default=512, metadata={"help": "embedding dimension"})
    decoder_output_dim: int = field(default=512, metadata={"help": "output dimension; must be the embedding's"})
    decoder_input_dim: int = field(default=512, metadata={"help": "input dimension; must be the embedding's"})
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "inner dimension of the feed-forward blocks"})
    decoder_layers: int = field(default=6, metadata={"help": "number of layers"})
    decoder_cross_layers: int = field(
        default=-1, metadata={"help": "how many of the last layers attend across channels; -1 for all of them"}
    )
    decoder_attention_heads: int = field(default=8, metadata={"help": "number of attention heads"})
    decoder_normalize_before: bool = field(default=True, metadata={"help": "pre-norm layers; the model has no others"})
    no_decoder_final_norm: bool = field(default=False, metadata={"help": "no layer norm after the last layer"})
    no_token_positional_embeddings: bool = field(default=False, metadata={"help": "no positional embeddings"})
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "the output head of the own channel shares the embedding's weights"}
    )
    decoder_learned_pos: bool = field(default=False, metadata={"help": "learned instead of sinusoidal positions"})
    decoder_layerdrop: float = field(default=0.0, metadata={"help": "probability of leaving a layer out in training"})
    decoder_layers_to_keep: Optional[str] = field(
        default=None, metadata={"help": "comma-separated layers to keep when a checkpoint is pruned at loading"}
    )
    layernorm_embedding: bool = field(default=False, metadata={"help": "layer norm after the embedding"})
    no_scale_embedding: bool = field(default=False, metadata={"help": "do not multiply embeddings by sqrt(dim)"})
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute activations in the backward pass: less memory, more time"}
    )
    offload_activations: bool = field(
        default=False, metadata={"help": "keep checkpointed activations in CPU memory (sets --checkpoint-activations)"}
    )
    quant_noise_pq: float = field(default=0.0, metadata={"help": "quantization noise at training time"})
    quant_noise_pq_block_size: int = field(default=8, metadata={"help": "block size of the quantization noise"})
    quant_noise_scalar: float = field(default=0.0, metadata={"help": "scalar quantization noise; must be 0"})
    add_bos_token: bool = II("task.add_bos_token")
    tokens_per_sample: int = II("task.tokens_per_sample")
    max_target_positions: Optional[int] = II("task.max_target_positions")
    tpu: bool = II("common.tpu")
    duration_prediction: str = II("task.duration_prediction")
    delayed_duration_target: str = II("task.delayed_duration_target")
    main_and_cross_weights: str = II("criterion.main_and_cross_weights")


@register_model("speech_dlm", dataclass=SpeechDLMConfig)
class SpeechDLM(FairseqLanguageModel):
    """Dialogue language model over C channels.

    ``model(src_tokens)`` takes units ``(B, T, C)`` and returns what
    :meth:`~speechdlm_ext.models.speech_dlm_decoder.SpeechDLMDecoder.forward` does. For continuing dialogues use
    :meth:`from_pretrained`::

        model = SpeechDLM.from_pretrained("checkpoints", "checkpoint_best.pt", "data-bin")
        model.sample([{"unitA": "7 376 376", "unitB": "7 499 415"}], max_len_b=500, sampling=True)
    """

    decoder: SpeechDLMDecoder

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "SpeechDLM":
        """Build a model for ``task`` (fairseq's entry); raises :class:`InputError` for options that contradict."""
        if args.decoder_layers_to_keep:
            args.decoder_layers = len(args.decoder_layers_to_keep.split(","))
        if args.decoder_cross_layers < 0:
            args.decoder_cross_layers = args.decoder_layers if len(task.channels) > 1 else 0
        args.max_target_positions = args.max_target_positions or args.tokens_per_sample or DEFAULT_MAX_TARGET_POSITIONS
        if args.offload_activations:
            args.checkpoint_activations = True
        # Published configurations leave these at 512 whatever the embedding is, and the public code overwrites them.
        args.decoder_input_dim = args.decoder_output_dim = args.decoder_embed_dim
        _check(args, task.channels)
        decoder = SpeechDLMDecoder(
            args,
            task.source_dictionary,
            channels=len(task.channels),
            durations=flag(args.duration_prediction, "--duration-prediction"),
            predict_others=len(task.channels) > 1 and cross_weights(args.main_and_cross_weights)[1] > 0,
        )
        return cls(decoder)

    @property
    def supported_targets(self) -> set[str]:
        """The targets that the task may ask for."""
        return {"next", "edge", "duration"}

    def forward(self, src_tokens: Tensor, **kwargs: Any) -> Any:
        """See :meth:`~speechdlm_ext.models.speech_dlm_decoder.SpeechDLMDecoder.forward`."""
        return self.decoder(src_tokens, **kwargs)

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
        """(Log) probabilities ``(B, T, C, V)`` of each channel's next unit, in fp32."""
        logits = net_output[0][0].units.float()
        return F.log_softmax(logits, -1) if log_probs else F.softmax(logits, -1)

    def load_state_dict(self, state_dict: Any, strict: bool = True, model_cfg: Any = None, args: Any = None) -> Any:
        """Take weights (fairseq's entry); raises :class:`InputError` in one line where they are not this model's."""
        try:
            return super().load_state_dict(state_dict, strict, model_cfg, args)
        except RuntimeError:
            check_weights(self, state_dict)
            raise

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        checkpoint_file: str = "model.pt",
        data_name_or_path: str = ".",
        trust: Optional[bool] = None,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint, or a folder of ``save_pretrained``; see :func:`speechdlm_ext.hub.load_speech_dlm`."""
        from speechdlm_ext.hub import load_speech_dlm

        return load_speech_dlm(model_name_or_path, checkpoint_file, data_name_or_path, trust, **kwargs)


def _check(args: Any, channels: list[str]) -> None:
    """Refuse options that contradict each other."""
    if args.decoder_cross_layers > args.decoder_layers:
        raise InputError(
            f"--decoder-cross-layers {args.decoder_cross_layers}: the model has {args.decoder_layers} layers "
            "(--decoder-layers), and no more can be cross-channel layers"
        )
    if args.decoder_cross_layers and len(channels) < 2:
        raise InputError(
            f"--decoder-cross-layers {args.decoder_cross_layers} needs two channels or more, found one "
            f"({channels[0]}): pass --decoder-cross-layers 0"
        )
    if args.decoder_embed_dim % args.decoder_attention_heads:
        raise InputError(
            f"--decoder-embed-dim {args.decoder_embed_dim} is not a multiple of --decoder-attention-heads "
            f"{args.decoder_attention_heads}"
        )
    if args.quant_noise_scalar > 0:
        raise InputError("--quant-noise-scalar is not supported: use --quant-noise-pq, or leave it at 0")


@register_model_architecture("speech_dlm", "speech_dlm_big")
def speech_dlm_big(args: Any) -> None:
    """The larger published shape: 12 layers, dimension 1024."""
    args.decoder_layers = getattr(args, "decoder_layers", 12)
    args.decoder_embed_dim = getattr(args, "decoder_embed_dim", 1024)
    args.decoder_ffn_embed_dim = getattr(args, "decoder_ffn_embed_dim", 4096)
    args.decoder_attention_heads = getattr(args, "decoder_attention_heads", 16)
