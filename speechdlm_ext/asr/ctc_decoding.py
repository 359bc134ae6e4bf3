"""Decoding of CTC: greedy with times, and prefix beam search with a word language model of KenLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.asr.base import Word
from speechdlm_ext.errors import InputError, one_line, optional_import

if TYPE_CHECKING:
    import torch

WORD_BOUNDARIES = ("|", " ")  # symbols between words
WORD_START = "▁"  # how pieces of sentencepiece begin that begin a word
_IMPOSSIBLE = -1e4  # log-probability of what is impossible in a frame, finite for the beam's sums


class Hypothesis(NamedTuple):
    """What a decoder found in one utterance.

    Attributes:
        symbols: labels, repetitions merged and blanks dropped.
        starts: frame in which each begins.
        ends: one past its last frame.
        score: greedy: sum of the winning log-probabilities over frames that are not blank, as in NeMo; beam: log
            of the probability of all alignments that the beam kept, plus the language model's part.
    """

    symbols: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    score: float


def greedy(log_probs: torch.Tensor, lengths: Sequence[int] | torch.Tensor, blank: int = -1) -> list[Hypothesis]:
    """The most likely label of each frame; the device is waited for once.

    Args:
        log_probs: (B, T, K).
        lengths: valid frames of each row (B,).
        blank: its label; negative ones count from the end.

    Returns:
        One hypothesis a row.
    """
    import torch

    blank %= log_probs.shape[-1]
    best, labels = log_probs.max(dim=-1)
    frames = torch.as_tensor(lengths, device=log_probs.device)[:, None]
    inside = torch.arange(labels.shape[1], device=labels.device) < frames
    labels = labels.masked_fill(~inside, blank)
    scores = best.masked_fill(labels == blank, 0.0).double().sum(1)
    found = []
    for row, score in zip(labels.cpu().numpy(), scores.tolist(), strict=True):
        found.append(_collapse(row, blank, score))
    return found


def _collapse(labels: NDArray[np.int64], blank: int, score: float) -> Hypothesis:
    """The hypothesis of one label a frame."""
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    ends = np.append(starts[1:], len(labels))
    kept = labels[starts] != blank
    parts = [tuple(part[kept].tolist()) for part in (labels[starts], starts, ends)]
    return Hypothesis(parts[0], parts[1], parts[2], score)


def timed_words(symbols: Sequence[str], starts: Sequence[int], ends: Sequence[int], frame_shift: float) -> list[Word]:
    """Words with their times, from the first frame of their first symbol to the last of their last one.

    Args:
        symbols: characters with ``|`` or spaces between words, or pieces of which ``▁`` begins a word; empty ones
            are passed over.
        starts: frame in which each begins.
        ends: one past its last frame.
        frame_shift: seconds.

    Returns:
        The words.
    """
    words: list[Word] = []
    text, begin, last = "", 0, 0
    for symbol, start, end in [*zip(symbols, starts, ends, strict=True), (WORD_BOUNDARIES[0], 0, 0)]:
        if (symbol in WORD_BOUNDARIES or symbol.startswith(WORD_START)) and text:
            words.append(Word(text, begin * frame_shift, last * frame_shift))
            text = ""
        said = "" if symbol in WORD_BOUNDARIES else symbol.removeprefix(WORD_START)
        if said:
            begin, text, last = (begin if text else start), text + said, end
    return words


class BeamSearch:
    """Prefix beam search (Hannun et al. 2014) by flashlight-text; with a language model, over the words of a list.

    Args:
        symbols: of the model without the blank, in order: characters with ``|`` or a space, or pieces.
        blank: label of the blank; negative ones count from the end.
        language_model: file of KenLM over words: ARPA, or binary with ``words``.
        words: the words that can be recognised; default: the unigrams of an ARPA file.
        split: spelling of a word in symbols; default: its characters.
        beam_size: hypotheses that are kept.
        lm_weight: of the language model's log10 probabilities.
        word_score: added for each word.

    Raises:
        InputError: flashlight-text is missing, a file is, or no word can be spelled.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        blank: int = -1,
        language_model: Path | None = None,
        words: Sequence[str] | None = None,
        split: Callable[[str], Sequence[str]] | None = None,
        beam_size: int = 50,
        lm_weight: float = 1.0,
        word_score: float = 0.0,
    ) -> None:
        with optional_import("beam search needs flashlight-text", "beam"):
            from flashlight.lib.text import decoder, dictionary
            from flashlight.lib.text.decoder.kenlm import KenLM
        self.blank = blank % (len(symbols) + 1)
        tokens = [*symbols[: self.blank], "<blank>", *symbols[self.blank :]]
        self._boundary = next((index for index, token in enumerate(tokens) if token in WORD_BOUNDARIES), None)
        silence = self.blank if self._boundary is None else self._boundary
        common = {
            "beam_size": beam_size, "beam_size_token": len(tokens), "beam_threshold": 1e6, "lm_weight": lm_weight,
            "sil_score": 0.0, "log_add": True, "criterion_type": decoder.CriterionType.CTC,
        }  # fmt: skip
        if language_model is None and words is None:
            options = decoder.LexiconFreeDecoderOptions(**common)
            self._model = decoder.ZeroLM()
            self._decoder = decoder.LexiconFreeDecoder(options, self._model, silence, self.blank, [])
            self._words = False
            return
        if words is None:
            assert language_model is not None
            words = unigrams(language_model)
        places = {token: index for index, token in enumerate(tokens)}
        spelled = ((word, split(word) if split else list(word)) for word in dict.fromkeys(words))
        lexicon = {word: [places[s] for s in symbols] for word, symbols in spelled if places.keys() >= set(symbols)}
        if not lexicon:
            raise InputError(f"{language_model or 'the list of words'}: no word can be spelled by the model's symbols")
        entries = dictionary.Dictionary([*lexicon, "<unk>"])
        try:
            self._model = KenLM(str(language_model), entries) if language_model else decoder.ZeroLM()
        except RuntimeError as error:
            raise InputError(f"{language_model}: KenLM cannot read it ({one_line(error)[-200:]})") from None
        trie, start = decoder.Trie(len(tokens), silence), self._model.start(False)
        for number, spelling in enumerate(lexicon.values()):
            end = [] if self._boundary is None else [self._boundary]
            trie.insert([*spelling, *end], number, self._model.score(start, number)[1])
        trie.smear(decoder.SmearingMode.MAX)
        options = decoder.LexiconDecoderOptions(**common, word_score=word_score, unk_score=float("-inf"))
        unknown = len(lexicon)
        self._decoder = decoder.LexiconDecoder(options, trie, self._model, silence, self.blank, unknown, [], False)
        self._words = True

    def __call__(
        self, log_probs: torch.Tensor, lengths: Sequence[int] | torch.Tensor, best: int = 1
    ) -> list[list[Hypothesis]]:
        """Decode a batch.

        Args:
            log_probs: (B, T, K).
            lengths: valid frames of each row (B,).
            best: hypotheses of each row, at most.

        Returns:
            The hypotheses of each row, best first.
        """
        import torch

        found = []
        counts = lengths.tolist() if isinstance(lengths, torch.Tensor) else lengths
        for row, count in zip(log_probs.detach().float().cpu(), counts, strict=True):
            if not count:
                found.append([Hypothesis((), (), (), 0.0)])
                continue
            frames = row[:count]
            if self._words and self._boundary is not None:  # a word ends with the boundary, the last one, too
                end = frames.new_full((1, frames.shape[1]), _IMPOSSIBLE)
                end[:, self._boundary] = 0.0
                frames = torch.cat([frames, end])
            frames = frames.contiguous()
            results = self._decoder.decode(frames.data_ptr(), *frames.shape)
            found.append([self._hypothesis(each.tokens, count, each.score) for each in results[:best]])
        return found

    def _hypothesis(self, path: Sequence[int], count: int, score: float) -> Hypothesis:
        found = _collapse(np.array(path[1 : count + 1], dtype=np.int64), self.blank, score)  # 0 is before the first
        inside = [index for index, symbol in enumerate(found.symbols) if symbol != self._boundary]
        kept = slice(inside[0], inside[-1] + 1) if inside else slice(0)
        return Hypothesis(found.symbols[kept], found.starts[kept], found.ends[kept], score)


@dataclass(frozen=True)
class BeamOptions:
    """How CTC is decoded where it is not greedily; all defaults: greedily.

    Attributes:
        lm_model: file of a language model of KenLM over words: ARPA, or binary with ``lexicon``.
        lexicon: file of the words that can be recognised, one a line, each alone or followed by its symbols; default:
            those of an ARPA file; without that either, any text.
        beam_size: hypotheses that are kept; 0: as many as :class:`BeamSearch` has by default.
        lm_weight: of the language model's log10 probabilities.
        word_score: added for each word.
    """

    lm_model: str = ""
    lexicon: str = ""
    beam_size: int = 0
    lm_weight: float = 1.0
    word_score: float = 0.0

    def __post_init__(self) -> None:
        if self.beam_size < 0 or not np.isfinite([self.lm_weight, self.word_score]).all():
            raise InputError(
                f"beam of {self.beam_size}, --lm-weight {self.lm_weight}, --word-score {self.word_score}: expected a "
                "number from 1 up, and finite ones"
            )

    @property
    def searches(self) -> bool:
        """Whether there is a beam search."""
        return bool(self.lm_model or self.lexicon or self.beam_size)

    @property
    def files(self) -> tuple[Path, ...]:
        """What it reads."""
        return tuple(Path(name) for name in (self.lm_model, self.lexicon) if name)

    def search(self, symbols: Sequence[str], split: Callable[[str], Sequence[str]], blank: int = -1) -> BeamSearch:
        """The search for a model's symbols (see :class:`BeamSearch`); ``split`` spells words.

        Raises:
            InputError: as :class:`BeamSearch`, or the lexicon is missing or empty.
        """
        spellings = _read_lexicon(Path(self.lexicon)) if self.lexicon else {}
        return BeamSearch(
            symbols,
            blank,
            Path(self.lm_model) if self.lm_model else None,
            list(spellings) or None,
            lambda word: spellings.get(word) or split(word),
            **({"beam_size": self.beam_size} if self.beam_size else {}),
            lm_weight=self.lm_weight,
            word_score=self.word_score,
        )


def _read_lexicon(path: Path) -> dict[str, list[str]]:
    """The words of a file and, where they follow, their symbols, without the boundary at the end."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no list of words ({one_line(error)})") from None
    if not lines:
        raise InputError(f"{path}: no words in it; one a line is expected")
    return {word: [s for s in symbols if s not in WORD_BOUNDARIES] for word, *symbols in lines}


def unigrams(path: Path) -> list[str]:
    """The words of an ARPA file.

    Raises:
        InputError: it is missing or another kind of file.
    """
    words: list[str] = []
    try:
        with path.open(encoding="utf-8") as file:
            inside = False
            for line in file:
                if line.startswith("\\"):
                    if inside:
                        break
                    inside = line.strip() == "\\1-grams:"
                elif inside and line.strip():
                    words.append(line.split()[1])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a language model of KenLM") from None
    except (UnicodeDecodeError, IndexError):
        words = []
    if not words:
        raise InputError(f"{path}: not an ARPA file; for a binary of KenLM, pass the list of its words, too")
    return [word for word in words if word not in ("<s>", "</s>", "<unk>")]
