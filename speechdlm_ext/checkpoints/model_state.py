"""A unit language model as data: what every checkpoint format is read to and written from."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from typing import Any, NamedTuple

from torch import Tensor

from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.models.unit_language_model import UnitLanguageModel, check_units
from speechdlm_ext.models.unit_lm import UnitLM, UnitLMConfig
from speechdlm_ext.models.unit_lstm import UnitLSTM, UnitLSTMConfig
from speechdlm_ext.modules.weights import check_weights

# The kinds of unit language models by the names that fairseq knows them by. A new kind is a line here.
KINDS: dict[str, tuple[type[UnitLanguageModel], Any]] = {
    "unit_lm": (UnitLM, UnitLMConfig),
    "unit_lstm": (UnitLSTM, UnitLSTMConfig),
}
# Published weights have our names without this.
PREFIX = "decoder."


class ModelState(NamedTuple):
    """Options and weights of a model.

    Attributes:
        kind: a name in :data:`KINDS`.
        units: size K of the codebook.
        options: of the model, by the names of its config class.
        weights: by our names, rows in our order (BOS 0, unit i in row i + 1).
        frame_rate: frames per second of durations, or of units that are not deduplicated; ``None`` if not known.
    """

    kind: str
    units: int
    options: dict[str, Any]
    weights: dict[str, Tensor]
    frame_rate: float | None = None

    @property
    def durations(self) -> bool:
        """Whether the model predicts durations."""
        return any("output_duration" in name for name in self.weights)

    def of_kind(self, kind: str, where: str) -> ModelState:
        """This state; raises :class:`InputError` where a format for ``kind`` cannot hold it."""
        if self.kind != kind:
            raise InputError(f"{where} is a {self.kind}, this format is for a {kind}")
        if self.durations:
            raise InputError(f"{where} predicts durations, which this format cannot hold: train without --durations")
        return self


def option_names(kind: str) -> list[str]:
    """The options that describe a model of this kind."""
    return [option.name for option in fields(KINDS[kind][1]) if option.name not in ("_name", "durations")]


def build_model(state: ModelState, where: str) -> UnitLanguageModel:
    """The model of a state, in evaluation mode on the CPU.

    Raises:
        InputError: weights that are missing, unknown, or of other shapes than the options say.
    """
    kind, config = KINDS[state.kind]
    args = Namespace(**{**vars(config()), **state.options, "durations": state.durations})
    model: UnitLanguageModel = kind.build_model(args, Namespace(source_dictionary=UnitDictionary(state.units)))
    check_units(model, state.weights, where)
    check_weights(model, state.weights, where)
    model.load_state_dict(state.weights)
    return model.eval()
