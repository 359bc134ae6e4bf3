"""Models of which a part is frozen: its running means stay, and checkpoints may do without it."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from speechdlm_ext.errors import InputError, one_line

TRAINED_ONLY = "keep only trained weights in checkpoints; the rest is read where it came from"
_LLM = ("llm.", "embed_tokens.", "lm_head.")
_ASR = ("perception.preprocessor.", "perception.encoder.")


class TrainedWeights(nn.Module):
    """Goes before fairseq's base class.

    Attributes:
        save_trained_only: whether checkpoints do without frozen weights that can be read again.
        pretrained: the beginnings of their names.
    """

    perception: Any
    save_trained_only = False
    pretrained: tuple[str, ...] = ("",)

    def train(self, mode: bool = True) -> Any:
        """As of any module, but what is frozen keeps its running means."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
                parameter.requires_grad for parameter in module.parameters()
            ):
                module.eval()
        return self

    def check_trained(self) -> None:
        """Raise :class:`InputError` where all is frozen."""
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise InputError("freeze_params: all weights are frozen, none is left to train")

    def leave_out_frozen(self, config: Mapping[str, Any], whole: bool = False) -> None:
        """Keep frozen weights out of checkpoints, where they can be read again from what ``config`` names.

        Those of a recogniser count where any of its encoder is frozen: a trained one is in every checkpoint.

        Args:
            config: that the model was built of: ``pretrained_llm``, ``pretrained_weights``, ``pretrained_asr``.
            whole: everything was read from elsewhere.

        Raises:
            InputError: the language model's weights are random.
        """
        llm = config.get("pretrained_weights", True) and not isinstance(config["pretrained_llm"], Mapping)
        if not whole and not llm:
            raise InputError("--save-trained-only: the frozen weights are random (pretrained_weights: false)")
        asr = config.get("pretrained_asr") not in (None, "", "none") and not all(
            parameter.requires_grad for parameter in self.perception.encoder.parameters()
        )
        self.pretrained = ("",) if whole else _LLM + _ASR * asr
        self.save_trained_only = True

    def left_out(self) -> set[str]:
        """Names of what checkpoints do without: frozen weights, and buffers of modules that have no others."""
        if not self.save_trained_only:
            return set()
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        modules = {name.rpartition(".")[0] for name in trained}
        trained |= {name for name, _ in self.named_buffers() if name.rpartition(".")[0] in modules}
        return {name for name in nn.Module.state_dict(self) if name.startswith(self.pretrained)} - trained

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """All weights, but those that are :meth:`left_out`."""
        state, prefix = super().state_dict(*args, **kwargs), kwargs.get("prefix", "")
        for name in self.left_out():
            del state[prefix + name]
        return state

    def load_state_dict(self, state_dict: Any, strict: bool = True, model_cfg: Any = None, args: Any = None) -> Any:
        """Take weights (fairseq's entry); those that are :meth:`left_out` may be missing.

        Raises:
            InputError: others are missing, or names or shapes are of another model.
        """
        names = set(nn.Module.state_dict(self))
        missing, unknown = names - set(state_dict) - self.left_out(), set(state_dict) - names
        if strict and (missing or unknown):
            kind, name = ("has no weights", min(missing)) if missing else ("has unknown weights", min(unknown))
            raise InputError(f"the checkpoint {kind} {name}: it is of another model, or was trained with other options")
        try:
            return nn.Module.load_state_dict(self, state_dict, strict=False)
        except RuntimeError as error:
            raise InputError(f"the checkpoint is of another model ({one_line(error)[:300]})") from None
