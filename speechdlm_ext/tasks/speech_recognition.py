"""The task of recognising speech: its text by CTC, the label of a clip, or labels of frames."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.distributed.utils import get_global_rank
from fairseq.tasks import register_task
from omegaconf import II

from speechdlm_ext.asr.ctc_decoding import BeamOptions, BeamSearch, greedy
from speechdlm_ext.asr.speech_model import describe, vocabulary_of
from speechdlm_ext.asr.text_tokenizer import CharacterTokenizer, TextTokenizer, load_tokenizer
from speechdlm_ext.criterions.speech_criterion import CONFUSION
from speechdlm_ext.data.speech_dataset import (
    SpeechDataset,
    encode_labels,
    encode_texts,
    find_split,
    needed_frames,
    read_utterances,
    within,
)
from speechdlm_ext.data.symbol_dictionary import SymbolDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.conv_speech import FRAMES, LABEL, TARGETS, TEXT
from speechdlm_ext.modules.conv_speech_files import STATE
from speechdlm_ext.tasks.plain_task import BaseTask
from speechdlm_ext.tasks.validation_log import ValidationLog

logger = logging.getLogger(__name__)
_LABELS = "labels.txt"


@dataclass
class SpeechRecognitionConfig(FairseqDataclass):
    """Where recordings and texts are, and which of them are used."""

    data: Optional[str] = field(
        default=None,
        metadata={"help": "folder with train.jsonl and valid.jsonl (or .json; or fairseq's .tsv and .ltr)"},
    )
    target: ChoiceEnum(list(TARGETS)) = field(  # type: ignore[valid-type]
        default=TEXT, metadata={"help": "what is recognised"}
    )
    vocabulary: Optional[str] = field(
        default=None,
        metadata={"help": "folder of data_prep/train_tokenizer.py, NeMo or fairseq (default: the data folder)"},
    )
    labels: Optional[str] = field(
        default=None,
        metadata={"help": f"labels in order, separated by commas (default: the lines of {_LABELS} in the data folder)"},
    )
    sample_rate: int = field(default=16000, metadata={"help": "of the sound, in Hz; other files are resampled"})
    channel: Optional[int] = field(
        default=None, metadata={"help": "channel from 0 of files with several, where a line of the manifest has none"}
    )
    min_duration: float = field(default=0.1, metadata={"help": "shorter training utterances are skipped, in seconds"})
    max_duration: float = field(default=16.7, metadata={"help": "longer training utterances are skipped, in seconds"})
    speeds: str = field(
        default="1.0",
        metadata={"help": "factors of the training utterances' speed, one drawn for each in each epoch: 0.9,1.0,1.1"},
    )
    unknown_characters: ChoiceEnum(["refuse", "drop"]) = field(  # type: ignore[valid-type]
        default="refuse", metadata={"help": "what to do with characters outside the vocabulary"}
    )
    lm_model: Optional[str] = field(
        default=None,
        metadata={
            "help": "decode by beam search (--beam, --nbest) with a language model over words (--lm-weight), KenLM's "
            "ARPA, or binary with --lexicon"
        },
    )
    lexicon: Optional[str] = field(
        default=None,
        metadata={"help": "decode by beam search over these words, one a line (default: those of an ARPA file)"},
    )
    word_score: float = field(default=0.0, metadata={"help": "added for each word in beam search"})
    seed: int = II("common.seed")
    tensorboard_logdir: Optional[str] = II("common.tensorboard_logdir")


@register_task("speech_recognition", dataclass=SpeechRecognitionConfig)
class SpeechRecognitionTask(BaseTask):
    """Speech recognition (``--target text``), commands (``label``) and voice activity (``label``, ``frame_labels``).

    Attributes:
        target: what is recognised.
        network: the configuration of the model that was built; None before.
        validation: where the criterion puts texts.
    """

    cfg: SpeechRecognitionConfig

    def __init__(
        self, cfg: SpeechRecognitionConfig, symbols: tuple[str, ...], tokenizer: Optional[TextTokenizer]
    ) -> None:
        super().__init__(cfg)
        self.target, self.sample_rate = str(getattr(cfg.target, "value", cfg.target)), cfg.sample_rate
        # One object for good: fairseq-generate asks for it before it reads the checkpoint, which may have the symbols.
        self._dictionary = SymbolDictionary(symbols, tokenizer)
        self.network: Optional[dict[str, Any]] = None
        self.frame_rate: Optional[float] = None
        self.speeds = _speeds(cfg.speeds)
        self.validation = ValidationLog()

    @classmethod
    def setup_task(cls, cfg: SpeechRecognitionConfig, **kwargs: Any) -> "SpeechRecognitionTask":
        """Read the vocabulary, where there is one; a checkpoint brings its own.

        Raises:
            InputError: an option is out of range, or the vocabulary is damaged.
        """
        if not cfg.data:
            raise InputError("no folder with train.jsonl and valid.jsonl was named")
        folder = Path(utils.split_paths(cfg.data)[0])
        if not 0 <= cfg.min_duration < cfg.max_duration:
            raise InputError(
                f"--min-duration {cfg.min_duration}, --max-duration {cfg.max_duration}: expected 0 ≤ min < max"
            )
        if str(getattr(cfg.target, "value", cfg.target)) == TEXT:
            if cfg.vocabulary or any((folder / name).is_file() for name in ("tokenizer.model", "dict.ltr.txt")):
                tokenizer = load_tokenizer(Path(cfg.vocabulary) if cfg.vocabulary else folder)
                return cls(cfg, tokenizer.symbols, tokenizer)
            return cls(cfg, (), None)
        if cfg.labels:
            labels = [label.strip() for label in cfg.labels.split(",")]
        elif (folder / _LABELS).is_file():
            labels = (folder / _LABELS).read_text(encoding="utf-8").split("\n")
        else:
            return cls(cfg, (), None)
        labels = [label for label in labels if label]
        if len(set(labels)) < max(2, len(labels)):
            raise InputError(f"labels {', '.join(labels)}: two or more, each once, are expected")
        return cls(cfg, tuple(labels), None)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Of the vocabulary; raises :class:`InputError` where none is known."""
        if not self._dictionary.symbols:
            needed = "--vocabulary, see data_prep/train_tokenizer.py" if self.target == TEXT else "--labels"
            raise InputError(f"no vocabulary in {self.cfg.data}: pass {needed}")
        return self._dictionary.symbols

    @property
    def tokenizer(self) -> Optional[TextTokenizer]:
        """Of texts; None where none is known yet, or for labels."""
        return self._dictionary.tokenizer

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The model for the vocabulary; its configuration goes into checkpoints."""
        model = super().build_model(cfg, from_checkpoint)
        self.network, self.frame_rate = getattr(model, "config", None), getattr(model, "frame_rate", None)
        return model

    def load_dataset(self, split: str, combine: bool = False, epoch: int = 1, **kwargs: Any) -> None:
        """Open a split; raises :class:`InputError` for what is wrong in its manifest."""
        folders = utils.split_paths(self.cfg.data)
        path = find_split(folders[(epoch - 1) % len(folders)], split)
        rows = read_utterances(path, self.target, self.cfg.channel)
        training = split.startswith("train")
        if training:
            rows = within(rows, self.cfg.min_duration, self.cfg.max_duration, str(path))
        if self.target == TEXT:
            drop = str(getattr(self.cfg.unknown_characters, "value", self.cfg.unknown_characters)) == "drop"
            tokenizer = self.tokenizer or CharacterTokenizer(self.symbols)
            targets = encode_texts(rows, tokenizer, drop, needed=split.startswith(("train", "valid")))
            rows, targets = self._possible(rows, targets, training, str(path))
        else:
            targets = encode_labels(rows, self.symbols, self.target == FRAMES)
        speeds = self.speeds if training else (1.0,)
        dataset = SpeechDataset(
            rows, targets, self.target_dictionary.pad(), self.sample_rate, speeds, training, self.cfg.seed
        )
        hours = sum(row.duration for row in rows) / 3600
        logger.info("%s: %d utterances, %.2f h", path, len(rows), hours)
        self.datasets[split] = dataset

    def _possible(self, rows: list[Any], targets: list[Any], training: bool, where: str) -> tuple[list[Any], list[Any]]:
        """Without the training utterances whose text is longer than CTC can align with their frames."""
        if not training or self.frame_rate is None:
            return rows, targets
        fastest = max(self.speeds)
        fits = [
            needed_frames(target) <= int(row.duration / fastest * self.frame_rate)
            for row, target in zip(rows, targets, strict=True)
        ]
        if not all(fits):
            first = rows[fits.index(False)]
            logger.warning(
                "%s: %d utterances skipped, their texts are longer than their frames, which CTC cannot align; first %s "
                "(%.2f s: %r)", where, fits.count(False), first.where, first.duration, first.target,
            )  # fmt: skip
        if not any(fits):
            raise InputError(f"{where}: every text is longer than its recording's frames, which CTC cannot align")
        return [row for row, fit in zip(rows, fits, strict=True) if fit], [
            target for target, fit in zip(targets, fits, strict=True) if fit
        ]

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        """Show texts and confusions when fairseq-train has validated; of several workers, the first one does."""
        if get_global_rank() == 0:
            counts = agg[f"_{CONFUSION}"].sum if f"_{CONFUSION}" in agg else None
            self.validation.write(self.cfg.tensorboard_logdir, stats["num_updates"], self.symbols, counts)

    def build_generator(self, models: Any, args: Any, *rest: Any, **kwargs: Any) -> "Decoder":
        """What ``fairseq-generate`` decodes with: beam search for ``--lm-model``, ``--lexicon`` or ``--nbest`` above 1.

        Raises:
            InputError: several checkpoints, a language model without weight, or one that cannot be used.
        """
        if len(models) != 1:
            raise InputError(f"{len(models)} checkpoints: one is expected, ensembles are not supported")
        best, weight = getattr(args, "nbest", 1), getattr(args, "lm_weight", 0.0)
        if self.target != TEXT or not (self.cfg.lm_model or self.cfg.lexicon or best > 1):
            return Decoder(self.target)
        if self.cfg.lm_model and not weight:
            raise InputError(f"--lm-model {self.cfg.lm_model}: pass its --lm-weight, too, 1 for instance")
        options = BeamOptions(self.cfg.lm_model or "", self.cfg.lexicon or "", args.beam, weight, self.cfg.word_score)
        tokenizer = self.tokenizer or CharacterTokenizer(self.symbols)
        return Decoder(self.target, options.search(self.symbols, tokenizer.split), best)

    def inference_step(self, generator: Any, models: Any, sample: dict[str, Any], *rest: Any, **kwargs: Any) -> Any:
        """Hypotheses of a batch."""
        with torch.no_grad():
            return generator(models[0], sample)

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the task: all that :func:`load_network` needs beside the weights."""
        return {STATE: {**describe(self.target, self.symbols, self.tokenizer), "config": self.network}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a checkpoint's vocabulary; raises :class:`InputError` where another one was given."""
        self.check_state(state_dict)
        if about := state_dict.get(STATE):
            self._dictionary.symbols, self._dictionary.tokenizer = vocabulary_of(about, "the checkpoint")

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise an :class:`InputError` where a checkpoint has another vocabulary than was given."""
        about = state_dict.get(STATE)
        if not about:
            return
        symbols, given = vocabulary_of(about, "the checkpoint")[0], self._dictionary.symbols
        if about["target"] != self.target or given and symbols != given:
            raise InputError(
                f"the checkpoint recognises {about['target']} with {len(symbols)} symbols, --target {self.target} and "
                f"another vocabulary ({len(given)} symbols) were given"
            )

    @property
    def target_dictionary(self) -> SymbolDictionary:
        """The vocabulary."""
        return self._dictionary

    @property
    def source_dictionary(self) -> None:
        """None: sound has no words."""
        return None

    def max_positions(self) -> None:
        """There is no longest recording."""
        return None


class Decoder:
    """Hypotheses as fairseq's commands want them: texts, or the most likely label of each frame, or of a clip.

    Args:
        target: of the task.
        search: of texts; default: the most likely symbol of each frame.
        best: hypotheses of each row that the search gives.
    """

    symbols_to_strip_from_output: frozenset[int] = frozenset()

    def __init__(self, target: str, search: Optional[BeamSearch] = None, best: int = 1) -> None:
        self.target, self.search, self.best = target, search, best

    def __call__(self, model: Any, sample: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """The hypotheses of each row, best first: ``tokens``, ``score``, ``positional_scores``."""
        scores, lengths = model(**sample["net_input"])
        if self.target == TEXT:
            texts = (
                self.search(scores, lengths, self.best) if self.search else [[one] for one in greedy(scores, lengths)]
            )
            return [[_hypothesis(one.symbols, one.score) for one in row] for row in texts]
        best, labels = scores.float().log_softmax(-1).max(-1)
        if self.target == LABEL:
            return [[_hypothesis((int(label),), float(score))] for label, score in zip(labels, best, strict=True)]
        return [
            [_hypothesis(label[:length].tolist(), float(score[:length].mean()))]
            for label, score, length in zip(labels, best, lengths.tolist(), strict=True)
        ]


def _hypothesis(tokens: Any, score: float) -> dict[str, Any]:
    return {
        "tokens": torch.tensor(tokens, dtype=torch.long), "score": score, "alignment": None, "attention": None,
        "positional_scores": torch.full((max(1, len(tokens)),), score / max(1, len(tokens))),
    }  # fmt: skip


def _speeds(text: str) -> tuple[float, ...]:
    try:
        speeds = tuple(float(word) for word in str(text).split(","))
    except ValueError:
        speeds = ()
    if not speeds or not all(0.25 <= speed <= 4 for speed in speeds):
        raise InputError(f"--speeds {text}: factors from 0.25 to 4, separated by commas, are expected")
    return speeds
