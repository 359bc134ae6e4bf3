"""A vocoder of two models: an acoustic model makes codec tokens of units, a codec makes sound of these (DP-SLM)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechdlm_ext.checkpoints.ellav import locate_unit_to_codec
from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.codecs.registry import CODECS, build_codec
from speechdlm_ext.codecs.wavtokenizer import WavTokenizerCodec
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.unit_to_codec import CodecOptions
from speechdlm_ext.hub.unit_to_codec import UnitToCodec
from speechdlm_ext.hub.voices import Voice, Voices
from speechdlm_ext.io.recordings import stamp
from speechdlm_ext.modules.devices import open_device
from speechdlm_ext.vocoders.base import Utterance
from speechdlm_ext.vocoders.wavtokenizer import WavTokenizer

if TYPE_CHECKING:
    from speechdlm_ext.units.codebook import Codebook

CODEC = "small_600_24k_4096"
_NO_LIMIT = 1 << 40


class CodecVocoder:
    """Units → codec tokens → sound, several rows together.

    Units with durations keep them: each gets the codec tokens that begin while it lasts. Deduplicated units last as
    long as the acoustic model makes them. Samples of a row depend on the seed and on the row's number alone.

    Args:
        acoustic: makes codec tokens.
        codec: makes sound of them.
        options: of decoding.
        seed: of the random numbers.
        batch_size: rows that are decoded together.
        made_by: what tells the models apart in ``settings``.

    Raises:
        InputError: the models do not belong together, or the first is of phones.
    """

    predicts_durations = True
    codebook_fingerprint: str | None = None

    def __init__(
        self,
        acoustic: UnitToCodec,
        codec: Codec | WavTokenizer,
        options: CodecOptions,
        seed: int = 1,
        batch_size: int = 8,
        made_by: Sequence[Any] = (),
    ) -> None:
        codec = WavTokenizerCodec(codec) if isinstance(codec, WavTokenizer) else codec
        known = acoustic.dictionary
        if codec.frame_rate != known.codec_rate:
            raise InputError(
                f"the acoustic model makes {known.codec_rate} codec tokens per second, the codec has "
                f"{codec.frame_rate:g}: take the codec that it was trained with (--codec-checkpoint)"
            )
        if codec.num_codebooks != 1:
            raise InputError(f"a codec of {codec.num_codebooks} codebooks: 1 is expected (--codec-checkpoint)")
        if known.codec_types != codec.codebook_size:
            raise InputError(
                f"the acoustic model knows {known.codec_types} codec tokens, the codec {codec.codebook_size}: "
                "take the codec that it was trained with (--codec-checkpoint)"
            )
        if batch_size < 1:
            raise InputError(f"--batch-size {batch_size}: 1 or more is expected")
        known.check_units("the acoustic model")
        self.acoustic, self.codec, self.options, self.seed = acoustic, codec, options, seed
        self.frame_rate, self.sample_rate = float(known.unit_rate), codec.sample_rate
        self.num_units, self.batch_size = len(known.units), batch_size
        self.voices: Voices | None = None
        self._made_by = list(made_by)

    @classmethod
    def build(
        cls,
        codebook: Codebook | None,
        device: str | None = None,
        acoustic: str | None = None,
        codec_checkpoint: str = CODEC,
        max_tokens: int = _NO_LIMIT,
        seed: int = 1,
        batch_size: int = 8,
        **options: Any,
    ) -> CodecVocoder:
        """The vocoder of a command's options, by default on a GPU where there is one."""
        if acoustic is None:
            raise InputError("--vocoder wavtokenizer needs an acoustic model: --acoustic FILE, or ellav-k500-l4500")
        decoding = CodecOptions(max_tokens, **options)
        place = open_device(device)
        path = locate_unit_to_codec(acoustic)
        named = codec_checkpoint.partition(":")[0] in CODECS
        codec = build_codec(codec_checkpoint if named else f"wavtokenizer:{codec_checkpoint}", 1, place)
        made_by = [[path.name, *stamp(os.fspath(path))], codec.identity]
        return cls(UnitToCodec.from_pretrained(path).to(place), codec, decoding, seed, batch_size, made_by)

    @property
    def settings(self) -> dict[str, Any]:
        """What the sound depends on beside the units."""
        voice = {} if self.voices is None else {"voice": self.voices.settings}
        return {"vocoder": "wavtokenizer", "models": self._made_by, **vars(self.options), "seed": self.seed, **voice}

    def decode(self, units: Tensor) -> Tensor:
        """Sound (B, C, N) of units (B, T, C), one per frame."""
        rows = [
            Utterance(f"row {number}", (number, 0), one.T.tolist(), True, {}) for number, one in enumerate(units, 1)
        ]
        return torch.stack(self.synthesize_batch(rows))

    def predict_durations(self, units: Tensor) -> Tensor:
        """Frames (T,) of each of a row's deduplicated units, 1 or more."""
        (found,) = self.acoustic.hypotheses([units.tolist()], self.options, [(self.seed, 0, 0)], [None])
        tokens = torch.tensor([len(codec) for codec in found.codec_per_unit])
        return (tokens * (self.frame_rate / self.codec.frame_rate)).round().long().clamp_min(1)

    def synthesize_batch(self, utterances: Sequence[Utterance], say: Callable[[str], object] = print) -> list[Tensor]:
        """Sound (C, N) of each utterance; see :class:`.UtteranceVocoder`."""
        channels = [(one, c, list(units)) for one in utterances for c, units in enumerate(one.units)]
        voices = [self._voice(one, units) for one, _, units in channels]
        found = self.acoustic.hypotheses(
            [units[voice.continued if voice else 0 :] for (_, _, units), voice in zip(channels, voices, strict=True)],
            self.options,
            [(self.seed, *one.number, *((0, c) if c else ())) for one, c, _ in channels],
            [voice and (voice.units, voice.codec) for voice in voices],
            framed=[one.framed for one, _, _ in channels],
            where=[f"row {one.name}" for one, _, _ in channels],
        )
        sounds: dict[int, list[Tensor]] = {}
        for (one, _, units), voice, made in zip(channels, voices, found, strict=True):
            if not made.finished:
                say(
                    f"row {one.name}: ended early, at --max-tokens {self.options.max_tokens}, after "
                    f"{len(made.codec_per_unit)} of {sum(1 for _ in groupby(units))} units"
                )
            codec = [*(voice.codec if voice and voice.continued else ()), *made.codec]
            if not codec:
                say(f"row {one.name}: the acoustic model gives its units no codec tokens: a moment of silence")
            sound = self._sound(codec)
            if one.framed:  # up to a codec token more than the frames, or less where it ended early
                sound = _lasting(sound, round(len(units) * self.sample_rate / self.frame_rate))
            sounds.setdefault(id(one), []).append(sound)
        return [_together(sounds[id(one)]) for one in utterances]

    def _sound(self, codec: Sequence[int]) -> Tensor:
        if not codec:
            return torch.zeros(round(self.sample_rate / self.codec.frame_rate))
        return self.codec.decode(torch.tensor([[codec]], device=self.codec.device))[0].float().cpu()

    def _voice(self, one: Utterance, units: list[int]) -> Voice | None:
        return None if self.voices is None else self.voices.of(one.name, {} if one.framed else one.row, units)


def _lasting(sound: Tensor, samples: int) -> Tensor:
    """So many samples of sound ``(N,)``, silent beyond its end."""
    return sound[:samples] if len(sound) >= samples else F.pad(sound, (0, samples - len(sound)))


def _together(channels: Sequence[Tensor]) -> Tensor:
    """Sound ``(C, N)``; minutes of a single channel are not copied."""
    return channels[0][None] if len(channels) == 1 else torch.nn.utils.rnn.pad_sequence(list(channels), True)
