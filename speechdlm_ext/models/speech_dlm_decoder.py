"""The towers of the SpeechDLM: all channels through the same layers, with attention between them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.models import FairseqDecoder
from fairseq.modules import LayerDropModuleList, LayerNorm, SinusoidalPositionalEmbedding
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from torch import Tensor, nn

from speechdlm_ext.data.flags import flag
from speechdlm_ext.generation.stepping import SteppingDecoder
from speechdlm_ext.modules.attention import causal_mask
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.dialogue_layer import DialogueLayer

# Rows, frames and channels of N positions, (N,) each.
Positions = tuple[Tensor, Tensor, Tensor]


class Prediction(NamedTuple):
    """What one output head says of every channel.

    Head i tells of channel c from the states of channel (c - i) mod C: head 0 is a channel's word about itself.

    Attributes:
        units: logits ``(B, T, C, V)``, or ``(N, V)`` at the positions asked for.
        durations: run lengths in frames ``(B, T, C)`` or ``(N,)``; ``None`` for a model without duration prediction.
    """

    units: Tensor
    durations: Tensor | None


class SpeechDLMDecoder(FairseqDecoder):
    """Decoder-only transformer over C parallel channels of units (Nguyen et al. 2022).

    The channels share all weights. The last ``decoder_cross_layers`` layers attend across channels as well. Output
    heads are numbered as in :class:`Prediction`; others than head 0 exist only when ``predict_others``.

    Attributes:
        delayed_durations: whether durations are predicted one frame after their edge.
        start_symbol: what comes before the first frame of a line.
        durations_repeat: that a unit of so many frames stands there so many times.
    """

    durations_repeat = True

    def __init__(self, args: Any, dictionary: Any, channels: int, durations: bool, predict_others: bool) -> None:
        super().__init__(dictionary)
        self.args = args
        self.channels = channels
        self.padding_idx = dictionary.pad()
        self.delayed_durations = flag(args.delayed_duration_target, "--delayed-duration-target")
        self.start_symbol = dictionary.bos() if args.add_bos_token else dictionary.eos()
        dim = args.decoder_embed_dim
        self.dropout = args.dropout
        self.register_buffer("version", torch.tensor([3.0]))
        self.embed_tokens = nn.Embedding(len(dictionary), dim, self.padding_idx)
        nn.init.normal_(self.embed_tokens.weight, std=dim**-0.5)
        nn.init.zeros_(self.embed_tokens.weight[self.padding_idx])
        self.embed_scale = 1.0 if args.no_scale_embedding else math.sqrt(dim)
        self.max_target_positions = args.max_target_positions
        self.embed_positions = self._build_positions(dim)
        self.layernorm_embedding = LayerNorm(dim) if args.layernorm_embedding else None
        self.layers = self._build_layers(args)
        self.layer_norm = None if args.no_decoder_final_norm else LayerNorm(dim)
        heads = channels if predict_others else 1
        self.output_projection = nn.ModuleList(nn.Linear(dim, len(dictionary), bias=False) for _ in range(heads))
        for projection in self.output_projection.parameters():
            nn.init.normal_(projection, std=dim**-0.5)
        if args.share_decoder_input_output_embed:
            self.output_projection[0].weight = self.embed_tokens.weight
        self.output_duration_prediction = nn.ModuleList(nn.Linear(dim, 1) for _ in range(heads if durations else 0))

    def _build_positions(self, dim: int) -> nn.Module | None:
        if self.args.no_token_positional_embeddings:
            return None
        if self.args.decoder_learned_pos:
            table = nn.Embedding(self.max_target_positions + self.padding_idx + 1, dim, self.padding_idx)
            nn.init.normal_(table.weight, std=dim**-0.5)
            nn.init.zeros_(table.weight[self.padding_idx])
            return table
        positions = SinusoidalPositionalEmbedding(dim, self.padding_idx, self.max_target_positions)
        # The published checkpoints hold no such buffer.
        positions.register_buffer("_float_tensor", torch.zeros(1), persistent=False)
        return positions

    def _build_layers(self, args: Any) -> nn.ModuleList:
        layers = LayerDropModuleList(p=args.decoder_layerdrop) if args.decoder_layerdrop > 0 else nn.ModuleList()
        for number in range(args.decoder_layers):
            layer: nn.Module = DialogueLayer(
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
            if args.checkpoint_activations:
                layer = checkpoint_wrapper(layer, offload_to_cpu=args.offload_activations)
            layers.append(layer)
        return layers

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
            src_tokens: ``(B, T, C)`` unit ids; with ``cache`` only those that are not in it yet.
            src_lengths: not needed; padding is read off the tokens.
            at: where to predict units: rows, frames and channels, ``(N,)`` each; everywhere by default.
            durations_at: where to predict durations; everywhere by default.
            cache: state over the positions so far, extended by this call.

        Returns:
            One :class:`Prediction` for each output head, and a dictionary whose ``"inner_states"`` are the states
            ``(B, C, T, D)`` after the embedding and after each layer.
        """
        states, inner = self.extract_features(src_tokens, cache)  # (B, C, T, D)
        states = states.transpose(1, 2)  # (B, T, C, D)
        heads = [self.output_layer(states, head, at, durations_at) for head in range(len(self.output_projection))]
        return heads, {"inner_states": inner}

    def extract_features(self, src_tokens: Tensor, cache: DecoderCache | None = None) -> tuple[Tensor, list[Tensor]]:
        """The states ``(B, C, T, D)`` under the output heads, and the inner states as in :meth:`forward`."""
        start = 0 if cache is None else cache.length
        if cache is not None:
            cache.reserve(src_tokens.size(1))
        tokens = src_tokens.transpose(1, 2)  # (B, C, T)
        x = self.embed(tokens, start)
        self_mask, cross_mask = (None, None) if start else self.padding_masks(tokens)
        inner = [x]
        for number, layer in enumerate(self.layers):
            x = layer(x, self_mask, cross_mask, cache, number)
            inner.append(x)
        if cache is not None:
            cache.length += src_tokens.size(1)
        return (x if self.layer_norm is None else self.layer_norm(x)), inner

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Unit embeddings plus positions; ``tokens`` ``(B, C, T)`` begin at position ``start``: ``(B, C, T, D)``."""
        x = self.embed_scale * self.embed_tokens(tokens)
        if self.embed_positions is not None:
            positions = utils.make_positions(tokens.flatten(0, 1), self.padding_idx).view_as(tokens)
            positions = positions + start * tokens.ne(self.padding_idx)
            x = x + self._position_table(start + tokens.size(2))[positions].to(x)
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        return F.dropout(x, self.dropout, self.training)

    def _position_table(self, length: int) -> Tensor:
        """The table of position embeddings, grown when sinusoids are wanted beyond its end."""
        positions: Any = self.embed_positions
        if not isinstance(positions, SinusoidalPositionalEmbedding):
            return positions.weight
        wanted = self.padding_idx + 1 + length
        if wanted > positions.weights.size(0):
            positions.weights = positions.get_embedding(wanted, positions.embedding_dim, self.padding_idx)
        if positions.weights.device != self.version.device:
            positions.weights = positions.weights.to(self.version.device)
        return positions.weights

    def padding_masks(self, tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Masks for padding that the causal mask does not hide already.

        Padding on the right that all channels share lies behind every real query, so the plain causal mask serves.
        Otherwise returns what may be attended to, ``(B, C, 1, T, T)`` and ``(B, C, 1, T, T·(C - 1))``.
        """
        pads = tokens.eq(self.padding_idx)  # (B, C, T)
        hidden = (pads.any(1) == pads.all(1)).all() & ~(pads[:, :, :-1] & ~pads[:, :, 1:]).any()
        if bool(hidden):
            return None, None
        length, channels = tokens.size(2), tokens.size(1)
        causal = causal_mask(length, length, 1, tokens.device)
        visible = causal & ~pads[:, :, None, None]  # (B, C, 1, T, T)
        own = visible | torch.eye(length, dtype=torch.bool, device=tokens.device)
        if channels == 1:
            return own, None
        others = [[visible[:, o] for o in range(channels) if o != c] for c in range(channels)]
        return own, torch.stack([torch.stack(masks, -1).flatten(-2) for masks in others], 1)

    def output_layer(
        self, states: Tensor, head: int = 0, at: Positions | None = None, durations_at: Positions | None = None
    ) -> Prediction:
        """States ``(B, T, C, D)`` to the :class:`Prediction` of one head."""
        if head:
            states = states.roll(head, 2)
        durations = None
        if len(self.output_duration_prediction):
            timed = states if durations_at is None else states[durations_at]
            durations = self.output_duration_prediction[head](timed).squeeze(-1)
        return Prediction(self.output_projection[head](states if at is None else states[at]), durations)

    def reader(self, rows: int) -> SteppingDecoder:
        """This decoder made ready for decoding about ``rows`` dialogues at a time."""
        return SteppingDecoder(self, rows)

    def max_positions(self) -> int:
        """The greatest number of frames."""
        return int(self.max_target_positions)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """Drop a buffer that older releases wrote and nothing reads."""
        state_dict.pop(f"{name}.embed_positions._float_tensor", None)
        return state_dict
