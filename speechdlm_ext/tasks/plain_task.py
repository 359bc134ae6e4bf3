"""What tasks share: all of them, and those whose data are neither symbols of a dictionary nor limited in length."""

from typing import Any

from fairseq.tasks import FairseqTask


class BaseTask(FairseqTask):
    """A task that several processes validate, of which one may have a batch less."""

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any) -> tuple[Any, Any, dict[str, Any]]:
        """The loss of a batch; nothing where ``fairseq-validate`` has none left for this of several processes."""
        return super().valid_step(sample, model, criterion) if sample else (0.0, 0, {})


class PlainTask(BaseTask):
    """A task without dictionaries, whose data set decides what is too long."""

    def max_positions(self) -> None:
        """No limit."""
        return None

    @property
    def source_dictionary(self) -> None:
        """There is none."""
        return None

    @property
    def target_dictionary(self) -> None:
        """There is none."""
        return None
