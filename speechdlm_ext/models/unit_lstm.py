"""Recurrent language model of units: AMELA's embedding, stacked LSTM and linear layer."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model
from omegaconf import II
from torch import Tensor, nn

from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.generation.incremental import RecurrentReader
from speechdlm_ext.models.unit_language_model import UnitDecoder, UnitLanguageModel
from speechdlm_ext.modules.packing import Packing
from speechdlm_ext.modules.recurrence import run_packed

INIT_STD = 0.02


@dataclass
class UnitLSTMConfig(FairseqDataclass):
    """Options of the model; the defaults are AMELA's."""

    decoder_embed_dim: int = field(default=256, metadata={"help": "embedding dimension"})
    decoder_hidden_size: int = field(default=512, metadata={"help": "size of the LSTM's state"})
    decoder_layers: int = field(default=2, metadata={"help": "number of LSTM layers"})
    dropout: float = field(default=0.1, metadata={"help": "dropout probability between the LSTM's layers"})
    durations: bool = II("task.durations")


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

    def extract_packed(self, tokens: Tensor, packing: Packing) -> Tensor:
        """See :meth:`UnitDecoder.extract_packed`."""
        return run_packed(self.lstm, self.embedding(tokens), packing)

    def reader(self, rows: int) -> RecurrentReader:
        """See :meth:`UnitDecoder.reader`."""
        return RecurrentReader(self)


@register_model("unit_lstm", dataclass=UnitLSTMConfig)
class UnitLSTM(UnitLanguageModel):
    """Language model of units after AMELA; see :class:`UnitLanguageModel`."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "UnitLSTM":
        """Build a model for ``task`` (fairseq's entry)."""
        return cls(UnitLSTMDecoder(args, task.source_dictionary))
