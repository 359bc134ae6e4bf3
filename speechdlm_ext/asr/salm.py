"""Recognition by SALM: a language model with audio in its prompt, asked to repeat what was said."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from speechdlm_ext.asr.base import SAMPLE_RATE, Recogniser, Transcript
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.devices import open_device

if TYPE_CHECKING:
    import torch

PROMPT = "Transcribe the following:"


class SALMRecogniser(Recogniser):
    """A SALM model with a prompt; see :class:`speechdlm_ext.hub.SALM`.

    Args:
        model: what ``SALM.from_pretrained`` takes.
        device: by default a GPU where there is one.
        prompt: what the user says before the audio.
    """

    kind: ClassVar[str] = "salm"
    usage: ClassVar[str] = "salm:FOLDER_OR_NAME"
    takes: ClassVar[frozenset[str]] = frozenset(("prompt",))

    def __init__(self, model: str, device: str | None = None, prompt: str = "") -> None:
        # The hub stands above the recognisers, and imports fairseq and transformers, which take seconds.
        self.model: Any = import_module("speechdlm_ext.hub").SALM.from_pretrained(model).to(open_device(device)).eval()
        if self.model.sampling_rate != SAMPLE_RATE:
            raise InputError(f"--asr salm:{model}: of {self.model.sampling_rate} Hz, {SAMPLE_RATE} Hz are expected")
        folder = Path(model)
        self.files = tuple(sorted(path for path in folder.iterdir() if path.is_file())) if folder.is_dir() else ()
        text = f"{prompt or PROMPT} {self.model.audio_locator_tag}"
        self._prompt = [{"role": "user", "content": text}]

    @classmethod
    def from_spec(cls, model: str, device: str | None = None, language: str = "", prompt: str = "") -> SALMRecogniser:
        """See :meth:`Recogniser.from_spec`."""
        if not model:
            raise InputError(f"--asr salm: expected {cls.usage}")
        return cls(model, device, prompt)

    def transcribe(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[Transcript]:
        """See :meth:`Recogniser.transcribe`."""
        import torch

        found = self.model.generate([self._prompt] * len(waves), waves, torch.tensor(list(lengths)))
        return [Transcript(" ".join(self.model.tokenizer.ids_to_text(row).split())) for row in found]
