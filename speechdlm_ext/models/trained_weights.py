"""Models of which a part is frozen: its running means stay, and checkpoints may leave it out."""

from typing import Any

from torch import nn

from speechdlm_ext.errors import InputError, one_line


class TrainedWeights(nn.Module):
    """Goes before fairseq's base class.

    Attributes:
        save_trained_only: whether :meth:`state_dict` has trained weights alone.
    """

    save_trained_only = False

    def train(self, mode: bool = True) -> Any:
        """As of any module, but what is frozen keeps its running means."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
                parameter.requires_grad for parameter in module.parameters()
            ):
                module.eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """All weights, or with :attr:`save_trained_only` those that are trained, and buffers of what is."""
        state = super().state_dict(*args, **kwargs)
        if not self.save_trained_only:
            return state
        prefix = kwargs.get("prefix", "")
        kept = self.trained_names()
        return {name: value for name, value in state.items() if name[len(prefix) :] in kept}

    def trained_names(self) -> set[str]:
        """Names of trained parameters, and of the buffers of modules that have some."""
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        modules = {name.rpartition(".")[0] for name in names}
        return names | {name for name, _ in self.named_buffers() if name.rpartition(".")[0] in modules}

    def load_state_dict(self, state_dict: Any, strict: bool = True, model_cfg: Any = None, args: Any = None) -> Any:
        """Take weights (fairseq's entry): all of them, or where only these are kept, the trained ones.

        Raises:
            InputError: names or shapes are of another model.
        """
        names = set(nn.Module.state_dict(self))
        partial = self.save_trained_only or getattr(model_cfg, "save_trained_only", False)
        missing = names - set(state_dict) - (names - self.trained_names() if partial else set())
        unknown = set(state_dict) - names
        if strict and (missing or unknown):
            kind, name = ("has no weights", min(missing)) if missing else ("has unknown weights", min(unknown))
            raise InputError(f"the checkpoint {kind} {name}: it is of another model, or was trained with other options")
        try:
            return nn.Module.load_state_dict(self, state_dict, strict=False)
        except RuntimeError as error:
            raise InputError(f"the checkpoint is of another model ({one_line(error)[:300]})") from None
