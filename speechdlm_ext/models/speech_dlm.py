"""The SpeechDLM: a language model of spoken dialogue over parallel channels of units (Nguyen et al. 2022)."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Optional

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import FairseqDecoder, FairseqLanguageModel, register_model, register_model_architecture
from fairseq.modules import LayerDropModuleList, LayerNorm, SinusoidalPositionalEmbedding
from omegaconf import II
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from speechdlm_ext.data.flags import cross_weights, flag
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.dialogue_layer import DialogueLayer
from speechdlm_ext.modules.linear import Linear
from speechdlm_ext.modules.prediction import Prediction
from speechdlm_ext.modules.weights import check_weights

DEFAULT_MAX_TARGET_POSITIONS = 1024

# Rows, frames and channels of N positions, (N,) each.
Positions = tuple[Tensor, Tensor, Tensor]


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


class SpeechDLMDecoder(FairseqDecoder):
    """Decoder-only transformer over C parallel channels of units (Nguyen et al. 2022).

    The channels share all weights. The last ``decoder_cross_layers`` layers attend across channels as well. Output
    heads are numbered as in :class:`Prediction`; others than head 0 exist only when ``predict_others``.

    Attributes:
        delayed_durations: whether durations are predicted one frame after their edge.
        start_symbol: the symbol before the first frame of a line.
        durations_repeat: a unit of n frames is repeated n times in the sequence.
        rolling: whether a full cache can forget its oldest positions; not with absolute positions.
    """

    durations_repeat = True
    rolling = False
    sinusoids: Tensor

    def __init__(self, args: Any, dictionary: Any, channels: int, durations: bool, predict_others: bool) -> None:
        super().__init__(dictionary)
        self.args = args
        self.channels = channels
        self.padding_idx = dictionary.pad()
        self.delayed_durations = flag(args.delayed_duration_target, "--delayed-duration-target")
        self.start_symbol = dictionary.bos() if args.add_bos_token else dictionary.eos()
        self.checkpointed, self.offloaded = bool(args.checkpoint_activations), bool(args.offload_activations)
        dim = args.decoder_embed_dim
        self.dropout = args.dropout
        self.register_buffer("version", torch.tensor([3.0]))
        self.embed_tokens = nn.Embedding(len(dictionary), dim, self.padding_idx)
        nn.init.normal_(self.embed_tokens.weight, std=dim**-0.5)
        nn.init.zeros_(self.embed_tokens.weight[self.padding_idx])
        self.embed_scale = 1.0 if args.no_scale_embedding else math.sqrt(dim)
        self.max_target_positions = args.max_target_positions
        # A bool of its own: of loaded models, args is an OmegaConf dictionary, which torch.compile cannot read.
        self.has_positions = not args.no_token_positional_embeddings
        self.embed_positions: nn.Embedding | None = None
        if not args.decoder_learned_pos:  # a buffer that the published checkpoints do not hold
            self.register_buffer("sinusoids", self._sinusoids(self.max_target_positions), persistent=False)
        elif self.has_positions:
            self.embed_positions = nn.Embedding(self.max_target_positions + self.padding_idx + 1, dim, self.padding_idx)
            nn.init.normal_(self.embed_positions.weight, std=dim**-0.5)
            nn.init.zeros_(self.embed_positions.weight[self.padding_idx])
        self.layernorm_embedding = LayerNorm(dim) if args.layernorm_embedding else None
        layers = LayerDropModuleList(p=args.decoder_layerdrop) if args.decoder_layerdrop > 0 else nn.ModuleList()
        layers.extend(self._build_layer(args, number) for number in range(args.decoder_layers))
        self.layers = layers
        self.layer_norm = None if args.no_decoder_final_norm else LayerNorm(dim)
        heads = channels if predict_others else 1
        self.output_projection = nn.ModuleList(Linear(dim, len(dictionary), bias=False) for _ in range(heads))
        for projection in self.output_projection.parameters():
            nn.init.normal_(projection, std=dim**-0.5)
        if args.share_decoder_input_output_embed:
            self.output_projection[0].weight = self.embed_tokens.weight
        self.output_duration_prediction = nn.ModuleList(Linear(dim, 1) for _ in range(heads if durations else 0))

    @staticmethod
    def _build_layer(args: Any, number: int) -> DialogueLayer:
        return DialogueLayer(
            args.decoder_embed_dim,
            args.decoder_ffn_embed_dim,
            args.decoder_attention_heads,
            cross=number >= args.decoder_layers - args.decoder_cross_layers,
            dropout=args.dropout,
            attention_dropout=args.attention_dropout,
            activation_dropout=args.activation_dropout or args.relu_dropout,
            activation_fn=str(args.activation_fn),
            q_noise=args.quant_noise_pq,
            qn_block_size=args.quant_noise_pq_block_size,
        )

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        at: Positions | None = None,
        durations_at: Positions | None = None,
        cache: DecoderCache | None = None,
        **unused: Any,
    ) -> tuple[list[Prediction], dict[str, Any]]:
        """Predict every channel's next unit.

        Args:
            src_tokens: ``(B, T, C)`` unit ids, padding on the right in all channels; with ``cache`` only those that
                are not in it yet.
            src_lengths: not needed: no position attends to the padding after it.
            at: where to predict units: rows, frames and channels, ``(N,)`` each; everywhere by default.
            durations_at: where to predict durations; everywhere by default.
            cache: of :meth:`make_cache`, extended for these positions.

        Returns:
            One :class:`Prediction` for each output head (with a cache, head 0 alone), and an empty dictionary, as
            fairseq expects a pair.
        """
        states = self.extract_features(src_tokens, cache).transpose(1, 2)  # (B, T, C, D)
        heads = 1 if cache is not None else len(self.output_projection)
        return [self.output_layer(states, head, at, durations_at) for head in range(heads)], {}

    def extract_features(self, src_tokens: Tensor, cache: DecoderCache | None = None) -> Tensor:
        """The states ``(B, C, T, D)`` under the output heads; arguments as in :meth:`forward`."""
        x = self.embed(src_tokens.transpose(1, 2), cache)
        checkpointed = self.checkpointed and self.training and torch.is_grad_enabled()
        for number, layer in enumerate(self.layers):
            if checkpointed:
                with save_on_cpu(pin_memory=x.is_cuda) if self.offloaded else nullcontext():
                    x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x, cache, number)
        return x if self.layer_norm is None else self.layer_norm(x)

    def embed(self, tokens: Tensor, cache: DecoderCache | None = None) -> Tensor:
        """Unit embeddings plus positions of ``tokens`` ``(B, C, T)``: ``(B, C, T, D)``."""
        x = self.embed_scale * self.embed_tokens(tokens)
        if self.has_positions:
            first = self.padding_idx + 1
            if cache is None:
                x = x + self._position_table(tokens.size(2))[first : first + tokens.size(2)].to(x)
            else:
                x = x + self._position_table(cache.capacity)[cache.positions + first].to(x)
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        return F.dropout(x, self.dropout, self.training)

    def _position_table(self, length: int) -> Tensor:
        """Position embeddings; as in fairseq, the first position's comes after the padding's. Sinusoids have no end."""
        if self.embed_positions is not None:
            return self.embed_positions.weight
        if self.padding_idx + 1 + length > len(self.sinusoids):
            self.sinusoids = self._sinusoids(length).to(self.sinusoids)
        return self.sinusoids

    def _sinusoids(self, length: int) -> Tensor:
        rows = self.padding_idx + 1 + length
        dim = self.embed_tokens.embedding_dim
        return SinusoidalPositionalEmbedding.get_embedding(rows, dim, self.padding_idx)

    def output_layer(
        self, states: Tensor, head: int = 0, at: Positions | None = None, durations_at: Positions | None = None
    ) -> Prediction:
        """States ``(B, T, C, D)`` to the :class:`Prediction` of one head."""
        durations = None
        if len(self.output_duration_prediction):
            timed = self._under(states, head, durations_at)
            durations = self.output_duration_prediction[head](timed).squeeze(-1)
        return Prediction(self.output_projection[head](self._under(states, head, at)), durations)

    def _under(self, states: Tensor, head: int, at: Positions | None) -> Tensor:
        """The states from which a head predicts, everywhere or at the given positions."""
        if at is None:
            return states.roll(head, 2) if head else states
        rows, frames, channels = at
        return states[rows, frames, (channels - head) % self.channels if head else channels]

    def make_cache(self, capacity: int, static: bool = False) -> DecoderCache:
        """An empty cache for ``capacity`` positions; ``static`` for compiled steps."""
        return DecoderCache(capacity, self.channels, self.embed_tokens.weight.device, self.rolling, static)

    def max_positions(self) -> int:
        """The greatest number of frames."""
        return int(self.max_target_positions)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """Drop a buffer that older releases wrote and nothing reads."""
        state_dict.pop(f"{name}.embed_positions._float_tensor", None)
        return state_dict


@register_model("speech_dlm", dataclass=SpeechDLMConfig)
class SpeechDLM(FairseqLanguageModel):
    """Dialogue language model over C channels.

    ``model(src_tokens)`` takes units ``(B, T, C)`` and returns what
    :meth:`SpeechDLMDecoder.forward` does. For continuing dialogues use
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
        """See :meth:`SpeechDLMDecoder.forward`."""
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
        # fairseq's convention puts loading on the model's class; what loads it stands above the models.
        load = import_module("speechdlm_ext.hub").load_speech_dlm
        return load(model_name_or_path, checkpoint_file, data_name_or_path, trust, **kwargs)


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
