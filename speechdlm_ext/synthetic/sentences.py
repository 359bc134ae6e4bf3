"""Everyday talk from a small grammar: questions, answers, statements and responses in less than a hundred words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# A name in braces is replaced by one of its entries; entries may hold further names. The vocabulary is kept small on
# purpose: words must come back often enough for a small model to learn their sound in minutes.
GRAMMAR: dict[str, Sequence[str]] = {
    "statement": (
        "{opener}{event}",
        "{opener}{opinion}",
        "{event}",
        "{opinion}",
        "{opener}we should {plan} {time}",
        "I want to {plan} {time}",
        "and {event}",
        "but {opinion}",
    ),
    "question": (
        "do you want to {plan} {time}",
        "did you see the {thing} in the {place}",
        "how was the {place} {past}",
        "what did you do {past}",
        "do you like the {quality} {thing}",
        "can we {plan} {time}",
    ),
    "answer": (
        "yes, {event}",
        "no, {opinion}",
        "yes, I want to {plan}",
        "maybe we can {plan} {time}",
        "I do not know, {opinion}",
        "sure, {time} is {quality}",
        "no, not really",
    ),
    "backchannel": ("mhm", "mhm", "yeah", "yeah", "right", "okay", "I see", "really", "uh huh", "oh"),
    "laughter": ("ha ha ha", "he he he"),
    "opener": ("well, ", "you know, ", "I mean, ", "so, ", "and then "),
    "event": (
        "I went to the {place} {past}",
        "my {person} was in the {place} {past}",
        "we saw a {quality} {thing} {past}",
        "my {person} bought a {quality} {thing}",
        "there was a {quality} {thing} in the {place}",
        "I lost my {thing} in the {place}",
    ),
    "opinion": (
        "I think the {thing} was {quality}",
        "the {place} is really {quality}",
        "my {person} likes the {quality} {thing}",
        "I like the {place} very much",
        "that is what my {person} said",
    ),
    "plan": (
        "go to the {place}",
        "see my {person}",
        "buy a {quality} {thing}",
        "find the {thing}",
        "call my {person}",
    ),
    "person": ("mother", "father", "sister", "brother", "friend", "teacher"),
    "place": ("market", "garden", "station", "kitchen", "office", "village", "museum"),
    "thing": ("table", "letter", "bicycle", "picture", "coat", "window", "radio"),
    "quality": ("good", "big", "little", "green", "new", "beautiful", "funny"),
    "time": ("today", "tomorrow", "on Monday", "next week"),
    "past": ("yesterday", "last week", "on Sunday", "this morning"),
}

_SLOT = re.compile(r"\{(\w+)\}")


def make_sentence(kind: str, rng: np.random.Generator) -> str:
    """A sentence of the given ``kind`` (a key of :data:`GRAMMAR`), drawn with ``rng``."""

    def fill(match: re.Match[str]) -> str:
        return make_sentence(match.group(1), rng)

    choices = GRAMMAR[kind]
    return _SLOT.sub(fill, choices[int(rng.integers(len(choices)))])


def vocabulary() -> set[str]:
    """All words that the grammar can produce, in lower case."""
    text = " ".join(" ".join(entries) for entries in GRAMMAR.values())
    return set(re.findall(r"[a-z']+", _SLOT.sub(" ", text).lower()))
