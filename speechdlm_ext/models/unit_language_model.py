"""What the unit language models have in common: batches, output heads, weights that fit or are refused."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.models import FairseqDecoder, FairseqLanguageModel
from torch import Tensor, nn

from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.linear import Linear
from speechdlm_ext.modules.prediction import Prediction
from speechdlm_ext.modules.weights import check_weights

NO_LIMIT = 2**31 - 1


class UnitDecoder(FairseqDecoder):
    """A causal decoder over one channel of units, whatever its layers are.

    A subclass sets :attr:`output` (states to the K + 1 rows of :class:`UnitDictionary`) and has
    :meth:`extract_features` and :meth:`make_cache`. With ``durations`` a second output predicts how long the last unit
    lasts, in frames.
    """

    output: nn.Linear
    # What decoding asks for (speechdlm_ext.generation).
    channels = 1
    delayed_durations = False
    durations_repeat = False
    rolling = True

    def __init__(self, dictionary: UnitDictionary, dim: int, durations: bool) -> None:
        super().__init__(dictionary)
        self.output_duration = Linear(dim, 1) if durations else None
        self.start_symbol, self.padding_idx = dictionary.bos(), dictionary.pad()

    def extract_features(
        self,
        tokens: Tensor,
        cache: Any = None,
        src_lengths: Tensor | None = None,
        token_index: Tensor | None = None,
    ) -> Tensor:
        """States ``(B, T, D)`` under the output heads; arguments as in :meth:`forward`."""
        raise NotImplementedError

    def make_cache(self, capacity: int, static: bool = False) -> Any:
        """What decoding keeps of the positions it has read, at most ``capacity`` of them; see :class:`DecoderCache`."""
        raise NotImplementedError

    def _indices(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, T)`` or ``(B, T, 1)`` as rows of the embedding ``(B, T)``, which has none for padding."""
        tokens = tokens.flatten(1)
        return tokens.masked_fill(tokens.eq(self.padding_idx), self.start_symbol)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        token_index: Tensor | None = None,
        cache: Any = None,
        **unused: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Predict what follows each position: in training, in scoring, and in decoding with a cache.

        Args:
            src_tokens: rows of the vocabulary ``(B, T)``, padded on the right; in decoding ``(B, T, 1)``, not padded.
            src_lengths: of the sequences, ``(B,)``.
            token_index: which of the B·T positions are not padding, ``(N,)``; with it and the lengths, nothing is
                computed for padding where the device has attention for that.
            cache: of :meth:`make_cache`, extended for these positions.

        Returns:
            Logits ``(B, T, K + 1)``, arbitrary where there is padding, and a dictionary whose ``"durations"`` are how
            long the unit of each position lasts, in frames, ``(B, T)``, or None. With a cache a list with one
            :class:`Prediction`, and an empty dictionary.
        """
        states = self.extract_features(src_tokens, cache, src_lengths, token_index)
        logits = self.output(states)
        durations = None if self.output_duration is None else self.output_duration(states)  # (B, T, 1)
        if cache is not None:
            return [Prediction(logits.unsqueeze(2), durations)], {}
        return logits, {"durations": None if durations is None else durations.squeeze(-1)}

    def max_positions(self) -> int:
        """There is no greatest number of positions."""
        return NO_LIMIT


class UnitLanguageModel(FairseqLanguageModel):
    """A language model of one channel of units; see :class:`UnitDecoder` for what it takes and returns."""

    decoder: UnitDecoder

    @property
    def supported_targets(self) -> set[str]:
        """The targets that the task may ask for."""
        return {"next", "duration"}

    def forward(self, src_tokens: Tensor, **kwargs: Any) -> Any:
        """See :meth:`UnitDecoder.forward`."""
        return self.decoder(src_tokens, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        checkpoint_file: str = "model.pt",
        data_name_or_path: Any = None,
        trust: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint, a folder, or a published model by name; see :func:`speechdlm_ext.hub.load_unit_lm`."""
        # fairseq's convention puts loading on the model's class; what loads it stands above the models.
        load = import_module("speechdlm_ext.hub").load_unit_lm
        return load(model_name_or_path, checkpoint_file, data_name_or_path, trust, **kwargs)

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
        """(Log) probabilities in fp32, ``(B, T, K + 2)``; that of the padding id, which targets may have, is zero."""
        logits = F.pad(net_output[0].float(), (0, 1), value=-torch.inf)
        return F.log_softmax(logits, -1) if log_probs else F.softmax(logits, -1)

    def load_state_dict(self, state_dict: Any, strict: bool = True, model_cfg: Any = None, args: Any = None) -> Any:
        """Take weights (fairseq's entry); raises :class:`InputError` in one line where they are not this model's."""
        try:
            return super().load_state_dict(state_dict, strict, model_cfg, args)
        except RuntimeError:
            check_units(self, state_dict, "the checkpoint")
            check_weights(self, state_dict)
            raise


def check_units(model: nn.Module, weights: Any, where: str) -> None:
    """Raise :class:`InputError` where weights are those of another codebook size."""
    expected = model.state_dict()
    name = "decoder.output.weight"
    if name in weights and len(weights[name]) != len(expected[name]):
        found = len(weights[name]) - 1
        raise InputError(
            f"{where} is for a codebook of {found} units, {len(expected[name]) - 1} are expected: use units of its "
            f"codebook; or, where the data only lack its last units, pass --units {found}"
        )
