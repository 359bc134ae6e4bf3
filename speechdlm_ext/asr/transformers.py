"""Recognition by any model of transformers' pipeline: Whisper, wav2vec 2.0, HuBERT, WavLM, Parakeet, … ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from speechdlm_ext.asr.base import SAMPLE_RATE, Recogniser, Transcript, Word
from speechdlm_ext.errors import InputError, one_line, optional_import
from speechdlm_ext.modules.devices import open_device

if TYPE_CHECKING:
    import torch


class TransformersASR(Recogniser):
    """A pipeline for ``automatic-speech-recognition``.

    Words have times where the model is a CTC model, or a Whisper whose generation config names its alignment heads.

    Args:
        model: a folder as ``save_pretrained`` writes it, or a name on the Hugging Face hub (downloaded once).
        device: by default a GPU where there is one.
        language: of the speech, for models that are told it.
        prompt: text that Whisper takes to come before.

    Raises:
        InputError: transformers is not installed, or the model cannot be loaded.
    """

    kind: ClassVar[str] = "transformers"
    usage: ClassVar[str] = "transformers:FOLDER_OR_NAME"
    takes: ClassVar[frozenset[str]] = frozenset(("language", "prompt"))

    def __init__(self, model: str, device: str | None = None, language: str = "", prompt: str = "") -> None:
        with optional_import("transformers is not installed", "hf"):
            import transformers
        try:
            self.pipeline: Any = transformers.pipeline(
                "automatic-speech-recognition", model=model, device=open_device(device)
            )
        except Exception as error:  # of the network, of files, of models for something else
            raise InputError(f"--asr transformers:{model}: it cannot be loaded: {one_line(error)[:300]}") from None
        folder = Path(model)
        self.files = tuple(sorted(path for path in folder.iterdir() if path.is_file())) if folder.is_dir() else ()
        heads = getattr(getattr(self.pipeline.model, "generation_config", None), "alignment_heads", None)
        times = "ctc" in self.pipeline.type or heads
        self._options: dict[str, Any] = {"return_timestamps": "word"} if times else {}
        # Whisper's windows are of one length; other models are told where a row ends, unless they know no mask.
        whisper = self.pipeline.model.config.model_type == "whisper"
        self._batches = whisper or getattr(self.pipeline.feature_extractor, "return_attention_mask", False)
        given: dict[str, Any] = {"language": language} if language else {}
        if prompt:
            if not whisper:
                raise InputError(f"--prompt: {model} takes none; expected a Whisper model")
            tokenizer: Any = self.pipeline.tokenizer
            tokens = tokenizer.get_prompt_ids(prompt, return_tensors="pt")
            given["prompt_ids"] = tokens.to(self.pipeline.device)
        if given:
            if not self.pipeline.model.can_generate():
                raise InputError(f"--language {language}: {model} takes none; expected a model that generates text")
            self._options["generate_kwargs"] = given

    @classmethod
    def from_spec(cls, model: str, device: str | None = None, language: str = "", prompt: str = "") -> TransformersASR:
        """See :meth:`Recogniser.from_spec`."""
        if not model:
            raise InputError(f"--asr transformers: expected {cls.usage}")
        return cls(model, device, language, prompt)

    def transcribe(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[Transcript]:
        """See :meth:`Recogniser.transcribe`."""
        sounds = [
            {"raw": row[:length].numpy(), "sampling_rate": SAMPLE_RATE}
            for row, length in zip(waves, lengths, strict=True)
        ]
        size = len(sounds) if self._batches or len(set(lengths)) == 1 else 1
        found = self.pipeline(sounds, batch_size=size, **self._options)
        return [_transcript(one, length / SAMPLE_RATE) for one, length in zip(found, lengths, strict=True)]


def _transcript(found: Mapping[str, Any], seconds: float) -> Transcript:
    words = [
        Word(chunk["text"].strip(), min(start, seconds), seconds if end is None else min(end, seconds))
        for chunk in found.get("chunks", ())
        for start, end in [chunk["timestamp"]]
        if start is not None and chunk["text"].strip()
    ]
    return Transcript(" ".join(found["text"].split()), tuple(words))
