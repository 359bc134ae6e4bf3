"""What tasks share whose data are neither symbols of a dictionary nor limited in length."""

from fairseq.tasks import FairseqTask


class PlainTask(FairseqTask):
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
