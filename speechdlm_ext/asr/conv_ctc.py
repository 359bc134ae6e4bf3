"""Recognition by convolutional CTC models (QuartzNet, Jasper, Citrinet): NeMo's files and checkpoints of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from speechdlm_ext.asr.base import LAUGHTER, SAMPLE_RATE, Recogniser, Transcript, Word
from speechdlm_ext.asr.ctc_decoding import BeamOptions, BeamSearch, Hypothesis, greedy, timed_words
from speechdlm_ext.io.audio import resample
from speechdlm_ext.modules.devices import open_device

if TYPE_CHECKING:
    import torch

    from speechdlm_ext.asr.speech_model import SpeechModel

CHUNK_SECONDS = 25.0


class ConvCTC(Recogniser):
    """A CTC model of the task ``speech_recognition``; a row in a batch has the text it has alone.

    Args:
        model: that predicts text.
        device: by default a GPU where there is one.
        beam: how it is decoded; default: greedily.
    """

    kind: ClassVar[str] = "ctc"
    usage: ClassVar[str] = "ctc:CHECKPOINT_OR_NEMO_OR_NAME"
    chunk_seconds: float = CHUNK_SECONDS

    def __init__(self, model: SpeechModel, device: str | None = None, beam: BeamOptions | None = None) -> None:
        self.model, self.device = model, open_device(device)
        self.network = model.network.to(self.device)
        self.files = (model.path,)
        self._search: BeamSearch | None = None
        if beam is not None and beam.searches:
            self.search_with(beam)
        self.supports_laughter = any(LAUGHTER.fullmatch(symbol) for symbol in model.symbols)

    @classmethod
    def from_spec(cls, model: str, device: str | None = None, language: str = "", prompt: str = "") -> ConvCTC:
        """See :meth:`Recogniser.from_spec`."""
        from speechdlm_ext.asr.speech_model import load_speech_model
        from speechdlm_ext.modules.conv_speech import TEXT

        return cls(load_speech_model(model, TEXT), device)

    def search_with(self, beam: BeamOptions) -> None:
        """See :meth:`Recogniser.search_with`."""
        assert self.model.tokenizer is not None
        self._search = beam.search(self.model.symbols, self.model.tokenizer.split)
        self.files = (self.model.path, *beam.files)

    @property
    def frame_shift(self) -> float:
        """Seconds between two output frames."""
        return 1 / self.network.frame_rate

    def transcribe(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[Transcript]:
        """See :meth:`Recogniser.transcribe`."""
        if self.network.sample_rate != SAMPLE_RATE:
            import torch

            rows = zip(waves, lengths, strict=True)
            parts = [resample(wave[:length], SAMPLE_RATE, self.network.sample_rate) for wave, length in rows]
            waves, lengths = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), [len(part) for part in parts]
        found, _ = self.hypotheses(waves, lengths)
        return [self.transcript(each) for each in found]

    def hypotheses(
        self, waves: torch.Tensor, lengths: Sequence[int]
    ) -> tuple[list[Hypothesis], tuple[torch.Tensor, torch.Tensor]]:
        """Hypotheses of a batch, with log-probabilities (B, T, V + 1) and valid frames (B,), on the device."""
        import torch

        with torch.inference_mode():
            scores, frames = self.network(waves.to(self.device), torch.tensor(lengths, device=self.device))
        if self._search is None:
            return greedy(scores, frames), (scores, frames)
        found = [each[0] for each in self._search(scores, frames.tolist())]
        return found, (scores, frames)

    def transcript(self, found: Hypothesis) -> Transcript:
        """Text and words with times of a hypothesis."""
        symbols = [self.model.symbols[i] for i in found.symbols]
        assert self.model.tokenizer is not None
        words = timed_words(symbols, found.starts, found.ends, self.frame_shift)
        return Transcript(self.model.tokenizer.join(symbols), tuple(Word(*word) for word in words))
