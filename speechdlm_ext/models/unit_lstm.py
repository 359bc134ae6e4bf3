"""Recurrent language model of units: AMELA's embedding, stacked LSTM and linear layer."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model
from omegaconf import II
from torch import Tensor, nn

from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.models.unit_language_model import UnitDecoder, UnitLanguageModel

INIT_STD = 0.02


@dataclass
class UnitLSTMConfig(FairseqDataclass):
    """Options of the model; the defaults are AMELA's."""

    decoder_embed_dim: int = field(default=256, metadata={"help": "embedding dimension"})
    decoder_hidden_size: int = field(default=512, metadata={"help": "size of the LSTM's state"})
    decoder_layers: int = field(default=2, metadata={"help": "number of LSTM layers"})
    dropout: float = field(default=0.1, metadata={"help": "dropout probability between the LSTM's layers"})
    durations: bool = II("task.durations")


class RecurrentCache:
    """The state of an LSTM as what decoding keeps; used like :class:`~speechdlm_ext.modules.cache.DecoderCache`.

    Attributes:
        length: positions read so far.
        state: hidden and cell state, ``(layers, B, H)`` each.
    """

    def __init__(self) -> None:
        self.length = 0
        self.state: Optional[tuple[Tensor, Tensor]] = None

    def extend(self, count: int) -> "RecurrentCache":
        """Announce ``count`` positions, which the next forward pass reads; returns the cache."""
        self.length += count
        return self

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order, repeated where they are named twice."""
        if self.state is not None:
            hidden, cell = self.state
            self.state = hidden[:, rows], cell[:, rows]

    def clear(self) -> None:
        """Forget every position."""
        self.length, self.state = 0, None


class UnitLSTMDecoder(UnitDecoder):
    """The layers; parameters are named as in AMELA's state dicts.

    Args:
        args: options as in :class:`UnitLSTMConfig`.
        dictionary: the vocabulary.
    """

    def __init__(self, args: Any, dictionary: UnitDictionary) -> None:
        super().__init__(dictionary, args.decoder_hidden_size, args.durations)
        self.args = args
        self.embedding = nn.Embedding(len(dictionary), args.decoder_embed_dim)
        self.lstm = nn.LSTM(
            args.decoder_embed_dim,
            args.decoder_hidden_size,
            args.decoder_layers,
            batch_first=True,
            dropout=args.dropout if args.decoder_layers > 1 else 0.0,
        )
        self.output = nn.Linear(args.decoder_hidden_size, len(dictionary))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights N(0, 0.02), biases 0."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=INIT_STD)
            else:
                nn.init.zeros_(parameter)

    def extract_features(
        self,
        tokens: Tensor,
        cache: Optional[RecurrentCache] = None,
        src_lengths: Optional[Tensor] = None,
        token_index: Optional[Tensor] = None,
    ) -> Tensor:
        """See :meth:`UnitDecoder.extract_features`.

        Sequences are not packed: padding follows them, where the state is not used any more, and torch's LSTM is
        several times faster over padded sequences of like length on a CPU.
        """
        states, state = self.lstm(self.embedding(self._indices(tokens)), None if cache is None else cache.state)
        if cache is not None:
            cache.state = state
        return states

    def make_cache(self, capacity: int, static: bool = False) -> "RecurrentCache":
        """See :meth:`UnitDecoder.make_cache`; the state has one size however long the sequence."""
        return RecurrentCache()


@register_model("unit_lstm", dataclass=UnitLSTMConfig)
class UnitLSTM(UnitLanguageModel):
    """Language model of units after AMELA; see :class:`UnitLanguageModel`."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "UnitLSTM":
        """Build a model for ``task`` (fairseq's entry)."""
        return cls(UnitLSTMDecoder(args, task.source_dictionary))
