"""How well a duplex model talks: what it says, when it begins and ends, over all turns of held-out conversations."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechdlm_ext.data.duplex_cuts import DuplexCut
from speechdlm_ext.data.duplex_dataset import DuplexS2SDataset
from speechdlm_ext.data.text_channel import Turn
from speechdlm_ext.errors import InputError, optional_import
from speechdlm_ext.io.audio import resample, write_audio
from speechdlm_ext.io.naming import safe_id
from speechdlm_ext.metrics.summary import summarize
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.metrics.words import error_rates, normalise

TOLERANCE = 1.04  # s: 13 frames, the published tolerance of an answer's beginning
YIELD = 1.5  # s from the user's onset in which an interrupted agent should end


@dataclass
class Conversation:
    """A held-out conversation and what the model made of it.

    Attributes:
        name, duration: of the recording, in seconds.
        user: the user's turns.
        reference: the agent's turns in the data, with the text that its channel has room for.
        agent: the model's turns.
        heard: what a recogniser understands of the model's sound, if one was asked.
    """

    name: str
    duration: float
    user: list[Turn]
    reference: list[Turn]
    agent: list[Turn]
    heard: str | None = None


@dataclass
class Timing:
    """Sums over all turns."""

    answers: int = 0  # turns of the user that are answered in the data
    in_time: list[float] = field(default_factory=list)  # latencies of answers within the tolerance
    same_text: int = 0
    interruptions: int = 0  # the user begins while the model speaks
    yields: list[float] = field(default_factory=list)  # seconds until it ends, where that is soon enough
    false_starts: int = 0  # turns of the model that begin at no answer's time


def channel_turns(
    tokens: Sequence[int], ids: Any, spell: Callable[[list[int]], str], frame: float, first: int
) -> list[Turn]:
    """The turns of a text channel.

    Args:
        tokens: one each frame; the first is of frame number ``first``.
        ids: of control.
        spell: text of ids.
        frame: seconds of a frame.
    """
    turns: list[Turn] = []
    begin: int | None = None
    words: list[int] = []
    for number, token in enumerate([*tokens, ids.text_eos], first):
        if token in (ids.text_bos, ids.text_eos):
            if begin is not None:
                turns.append(Turn(begin * frame, (number - begin) * frame, spell(words), "agent"))
            begin, words = (number if token == ids.text_bos else None), []
        elif begin is not None:
            words.append(token)
    return turns


def converse(
    model: Any,
    cuts: Sequence[DuplexCut],
    folder: Path,
    dataset: DuplexS2SDataset,
    recogniser: Any = None,
    options: Any = None,
) -> list[Conversation]:
    """Let a model hear the user's side of conversations, one by one.

    Writes ``FOLDER/<id>/input.wav`` and ``output.wav``, in step and of the same length (the layout of
    Full-Duplex-Bench, and of ``evaluate_dialogue.py``).

    Raises:
        InputError: before anything is computed: a conversation is invalid, or two would have the same folder.
    """
    from tqdm import tqdm

    frame, ids, parts = dataset.frame_length, model.model.ids, model.parts

    def spell(tokens: list[int]) -> str:
        return str(parts.tokenizer.ids_to_text(parts.words(tokens)))

    names: dict[str, str] = {}
    for cut in cuts:
        dataset.check(cut)
        if (other := names.setdefault(safe_id(cut.id), cut.where)) != cut.where:
            raise InputError(f"{cut.where}: id {cut.id}: the same name as {other}: two folders of it cannot be written")
    made = []
    for cut in tqdm(cuts, desc="conversations", unit="file", disable=None):
        place = folder / safe_id(cut.id)
        wave = dataset.load(cut)["source_audio"]
        with torch.no_grad():
            said = model.offline_inference(wave[None].to(model.device), torch.tensor([len(wave)]), options=options)
        sound = said["audio"][0].float().cpu()
        rate = model.target_sample_rate
        sound = torch.nn.functional.pad(sound, (0, max(0, round(cut.duration * rate) - len(sound))))
        write_audio(place / "input.wav", wave, dataset.source_sample_rate)
        write_audio(place / "output.wav", sound[: round(cut.duration * rate)], rate)
        tokens = said["tokens_text"][0].tolist()
        channel = dataset.channel(cut, dataset.output_roles).tokens.tolist()
        talk = Conversation(
            cut.id,
            cut.duration,
            [turn for turn in cut.turns if turn.speaker in dataset.input_roles],
            channel_turns(channel, ids, spell, frame, 0),
            channel_turns(tokens, ids, spell, frame, 1),
        )
        if recogniser is not None:
            talk.heard = recogniser.recognise(resample(sound, rate, 16000).numpy().astype(np.float32)).text
        made.append(talk)
    return made


def timing(talks: Sequence[Conversation], tolerance: float = TOLERANCE, soon: float = YIELD) -> Timing:
    """Match the model's turns with those of the data, over all turns.

    An answer of the data counts as given where the model begins a turn within ``tolerance`` seconds of the end of the
    user's turn before it, each turn of the model once. An interruption is a turn of the user that begins inside a turn
    of the model.
    """
    found = Timing()
    for talk in talks:
        free = list(talk.agent)
        for answer in talk.reference:
            before = [turn for turn in talk.user if turn.end <= answer.start + tolerance and turn.start < answer.start]
            if not before:
                continue
            found.answers += 1
            end = before[-1].end
            near = min(free, key=lambda turn: abs(turn.start - end), default=None)
            if near is None or abs(near.start - end) > tolerance:
                continue
            free.remove(near)
            found.in_time.append(near.start - end)
            found.same_text += _starts_alike(near.text, answer.text)
        found.false_starts += len(free)
        for turn in talk.user:
            during = [own for own in talk.agent if own.start + 0.1 < turn.start < own.end]
            found.interruptions += bool(during)
            found.yields += [own.end - turn.start for own in during[:1] if own.end - turn.start <= soon]
    return found


def figures(talks: Sequence[Conversation], **limits: float) -> dict[str, Any]:
    """All figures: text (BLEU, word errors), sound where it was recognised, answers, interruptions, turn-taking.

    Shares are of the turns of all conversations; times in seconds.

    Raises:
        InputError: sacrebleu is not installed.
    """
    times = timing(talks, **limits)
    said, expected = ([" ".join(turn.text for turn in side) for side in sides] for sides in _sides(talks))
    made: dict[str, Any] = {
        "conversations": len(talks),
        "text_bleu": bleu(expected, said),
        "text_wer": error_rates(expected, said)["words"]["corpus"],
        "answers": times.answers,
        "answered_in_time": _share(len(times.in_time), times.answers),
        "response_latency": _mean(times.in_time),
        "median_response_latency": statistics.median(times.in_time) if times.in_time else None,
        "follows_script": _share(times.same_text, times.answers),
        "false_starts": times.false_starts,
        "interruptions": times.interruptions,
        "yields": _share(len(times.yields), times.interruptions),
        "barge_in_latency": _mean(times.yields),
    }
    if any(talk.heard is not None for talk in talks):
        heard = [talk.heard or "" for talk in talks]
        made["asr_bleu"], made["asr_wer"] = bleu(expected, heard), error_rates(expected, heard)["words"]["corpus"]
    for name, side in (("model", "agent"), ("reference", "reference")):
        spans = [
            (([(t.start, t.end) for t in talk.user], [(t.start, t.end) for t in getattr(talk, side)]), talk.duration)
            for talk in talks
        ]
        made[f"turn_taking_{name}"] = summarize(find_events_of_many(spans))
    return made


def bleu(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """BLEU of the whole corpus on normalised texts (sacrebleu's), 0 to 100."""
    with optional_import("BLEU needs sacrebleu", "eval"):
        from sacrebleu import corpus_bleu
    score = corpus_bleu([normalise(text) for text in hypotheses], [[normalise(text) for text in references]])
    return float(score.score)


def _sides(talks: Sequence[Conversation]) -> tuple[list[list[Turn]], list[list[Turn]]]:
    return [talk.agent for talk in talks], [talk.reference for talk in talks]


def _starts_alike(said: str, expected: str) -> bool:
    """Whether one text is the other, or a beginning of it of two words or more, as of an answer that is interrupted."""
    first, second = normalise(said).split(), normalise(expected).split()
    size = min(len(first), len(second))
    return bool(size) and first[:size] == second[:size] and (size >= 2 or len(second) < 3)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
