"""What the unit language models have in common: packed batches, output heads, weights that fit or are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.models import FairseqDecoder, FairseqLanguageModel
from torch import Tensor, nn

from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.incremental import Reader
from speechdlm_ext.modules.packing import Packing
from speechdlm_ext.modules.weights import check_weights

NO_LIMIT = 2**31 - 1


class UnitDecoder(FairseqDecoder):
    """A causal decoder over one channel of units, whatever its layers are.

    A subclass sets :attr:`output` (states to the K + 1 rows of :class:`UnitDictionary`) and has
    :meth:`extract_packed`. With ``durations`` a second output tells how long the unit that was read goes on, in frames.
    """

    output: nn.Linear
    # What decoding wants to know (speechdlm_ext.generation).
    channels = 1
    delayed_durations = False
    durations_repeat = False
    # Places that go through the model together on a CPU: in training (None: the whole batch), and in scoring.
    trained_on_cpu: int | None = None
    scored_on_cpu = 12288

    def __init__(self, dictionary: UnitDictionary, dim: int, durations: bool) -> None:
        super().__init__(dictionary)
        self.output_duration = nn.Linear(dim, 1) if durations else None
        self.start_symbol = dictionary.bos()

    def extract_packed(self, tokens: Tensor, packing: Packing) -> Tensor:
        """States ``(N, D)`` of the sequences that lie in ``tokens`` ``(N,)`` as ``packing`` says."""
        raise NotImplementedError

    def reader(self, rows: int) -> Reader:
        """This decoder made ready for decoding about ``rows`` sequences at a time."""
        raise NotImplementedError

    def scorer(self, places: int) -> Callable[[Tensor, Sequence[int]], Tensor]:
        """What makes logits ``(N, K + 1)`` of tokens ``(N,)`` and lengths, for about ``places`` tokens in all."""
        return lambda tokens, lengths: self(tokens, lengths)[0]

    def forward(
        self, src_tokens: Tensor, src_lengths: Sequence[int] | Tensor | None = None, **unused: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Predict what follows each position.

        Args:
            src_tokens: rows of the vocabulary, packed ``(N,)``, or padded on the right ``(B, T)``.
            src_lengths: of the B sequences; for padded ones they may be left out, if there is no padding.

        Returns:
            Logits ``(N, K + 1)`` or ``(B, T, K + 1)`` (anything in the padding), and a dictionary whose
            ``"durations"`` are how long the unit of the position goes on, in frames, ``(N,)`` or ``(B, T)``, or None.
        """
        if src_tokens.dim() == 1:
            if src_lengths is None:
                raise ValueError("a packed batch needs the lengths of its sequences")
            return self._heads(self.extract_packed(src_tokens, _packing(src_lengths, src_tokens)))
        rows, longest = src_tokens.shape
        packing = _packing([longest] * rows if src_lengths is None else src_lengths, src_tokens)
        row = torch.arange(rows, device=src_tokens.device)
        row = row.repeat_interleave(torch.tensor(packing.lengths, device=src_tokens.device))
        place = row * longest + packing.positions
        states = self.extract_packed(src_tokens.flatten()[place], packing)
        padded = states.new_zeros(rows * longest, states.size(-1)).index_copy(0, place, states)
        return self._heads(padded.view(rows, longest, -1))

    def _heads(self, states: Tensor) -> tuple[Tensor, dict[str, Any]]:
        durations = None if self.output_duration is None else self.output_duration(states).squeeze(-1)
        return self.output(states), {"durations": durations}

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
        from speechdlm_ext.hub import load_unit_lm

        return load_unit_lm(model_name_or_path, checkpoint_file, data_name_or_path, trust, **kwargs)

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> Tensor:
        """(Log) probabilities in fp32, ``(N, K + 1)``, or ``(B, T, K + 2)`` with one of nothing for padding."""
        logits = net_output[0].float()
        if logits.dim() == 3:
            logits = F.pad(logits, (0, 1), value=-torch.inf)
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
    wanted = model.state_dict()
    name = "decoder.output.weight"
    if name in weights and len(weights[name]) != len(wanted[name]):
        found = len(weights[name]) - 1
        raise InputError(
            f"{where} is for a codebook of {found} units, {len(wanted[name]) - 1} are wanted: use units of its "
            f"codebook; or, where the data only lack its last units, pass --units {found}"
        )


def _packing(lengths: Sequence[int] | Tensor, tokens: Tensor) -> Packing:
    listed = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    return Packing(listed, tokens.device)
