"""Dialogues as Python programs hold them, text or ids, one or many, to ids ``(T, C)``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from speechdlm_ext.data.channel_dictionary import ChannelDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.units.files import DURATIONS

Dialogue: TypeAlias = "Mapping[str, str] | Tensor"

# A unit of a prompt that the model is to fill in, as published.
FREE = ("<pad>", "<unk>")


def dialogue_list(dialogues: Any) -> list[Dialogue]:
    """One dialogue, a list of them, or a tensor ``(B, T, C)``, as a list.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(dialogues, Mapping) or (isinstance(dialogues, Tensor) and dialogues.dim() == 2):
        return [dialogues]
    if isinstance(dialogues, Tensor) and dialogues.dim() == 3:
        return list(dialogues)
    if isinstance(dialogues, Sequence) and not isinstance(dialogues, str):
        return list(dialogues)
    shape = f" of shape {tuple(dialogues.shape)}" if isinstance(dialogues, Tensor) else ""
    raise InputError(
        f"dialogues: {type(dialogues).__name__}{shape}, a dictionary of channels, a tensor (frames, channels), or a "
        "list of these is expected"
    )


def encode_dialogue(
    dialogue: Dialogue,
    dictionary: ChannelDictionary,
    where: str,
    condition_on: str | None = None,
    prompt_frames: int | None = None,
) -> Tensor:
    """A dialogue as a prompt ``(T, C)``, with ``<pad>`` or ``<unk>`` where the model is to fill in.

    Args:
        dialogue: text by channel, or ids ``(T, C)``.
        where: what to name in an error.
        condition_on: a channel that is given in full; the others may be shorter, and what they lack is free.
        prompt_frames: keep this many frames, of the others than ``condition_on`` where that is given.

    Raises:
        InputError: channels that are missing, misnamed, not equally long or shorter than ``prompt_frames``; a unit
            that a channel's dictionary does not have.
    """
    given = column(dictionary, condition_on)
    if isinstance(dialogue, Tensor):
        prompt = _check_ids(dialogue, dictionary, where, (dictionary.pad(), dictionary.unk()))
        frames = [len(prompt)] * prompt.size(1)
    else:
        texts = channel_texts(dialogue, dictionary.channels, where)
        frames = [len(text.split()) for text in texts]
        if given is not None:
            texts = _fill_up(texts, dictionary.channels, given, where)
        prompt = dictionary.encode_channels(texts, where, FREE)
    if prompt_frames is None:
        return prompt
    kept = [count for c, count in enumerate(frames) if c != given]
    if prompt_frames < 0 or min(kept, default=prompt_frames) < prompt_frames:
        raise InputError(f"{where}: {min(kept)} frames, {prompt_frames} are expected for the prompt (prompt_frames)")
    if given is None:
        return prompt[:prompt_frames]
    prompt = prompt.clone()
    others = [c for c in range(prompt.size(1)) if c != given]
    prompt[prompt_frames:, others] = dictionary.pad()
    return prompt


def encode_whole(dialogue: Dialogue, dictionary: ChannelDictionary, where: str) -> Tensor:
    """A dialogue without free frames, ``(T, C)``; as ids it may hold ``</s>`` where lines end.

    Raises:
        InputError: as :func:`encode_dialogue`, and for a free frame, and for a dialogue without frames.
    """
    if isinstance(dialogue, Tensor):
        units = _check_ids(dialogue, dictionary, where, (dictionary.eos(),))
    else:
        units = dictionary.encode_channels(channel_texts(dialogue, dictionary.channels, where), where)
    if not len(units):
        raise InputError(f"{where}: there are no units in it")
    return units


def column(dictionary: ChannelDictionary, channel: str | None) -> int | None:
    """The number of a channel that is given (``condition_on``); raises :class:`InputError` for an unknown name."""
    if channel is None:
        return None
    if channel not in dictionary.channels:
        raise InputError(
            f"condition_on {channel}: no such channel; the model's channels are {', '.join(dictionary.channels)}"
        )
    if len(dictionary.channels) == 1:
        raise InputError(f"condition_on {channel}: the model has no other channel that could follow it")
    return dictionary.channels.index(channel)


def channel_texts(dialogue: Mapping[str, Any], channels: Sequence[str], where: str) -> list[str]:
    """The units of each channel; other fields, as a row of a unit file has, are passed over.

    Raises:
        InputError: a channel is missing, or there is one that the model does not have, or it is not text.
    """
    if not isinstance(dialogue, Mapping):
        raise InputError(f"{where}: {type(dialogue).__name__}, a dictionary of channels or a tensor is expected")
    of_the_model = f"the model's channels are {', '.join(channels)}"
    missing = [channel for channel in channels if channel not in dialogue]
    if missing:
        found = ", ".join(map(str, dialogue)) or "nothing"
        raise InputError(f"{where}: channel {missing[0]} is missing, found {found}; {of_the_model}")
    for name in dialogue:
        if name not in channels and re.fullmatch("unit[A-Z]", str(name)):
            raise InputError(f"{where}: channel {name} is one too many; {of_the_model}")
    if dialogue.get("deduplicated") is True or any(channel + DURATIONS in dialogue for channel in channels):
        raise InputError(
            f"{where}: its units are deduplicated, expected one for each frame: data_prep/split_units.py --expand"
        )
    for channel in channels:
        if not isinstance(dialogue[channel], str):
            raise InputError(
                f"{where}: {channel} is {type(dialogue[channel]).__name__}, text is expected, as in '7 376 376'"
            )
    return [dialogue[channel] for channel in channels]


def _fill_up(texts: Sequence[str], channels: Sequence[str], given: int, where: str) -> list[str]:
    """The same texts, with ``<pad>`` after those that are shorter than the given channel's."""
    frames = len(texts[given].split())
    filled = []
    for channel, text in zip(channels, texts, strict=True):
        missing = frames - len(text.split())
        if missing < 0:
            raise InputError(
                f"{where}: {frames - missing} units in {channel}, {frames} in {channels[given]}, which is given: the "
                "others must not be longer"
            )
        filled.append(" ".join([text, *["<pad>"] * missing]))
    return filled


def _check_ids(units: Tensor, dictionary: ChannelDictionary, where: str, special: Sequence[int]) -> Tensor:
    """Raise :class:`InputError` unless ``units`` ``(T, C)`` are ids of units, or of the given special symbols."""
    channels = len(dictionary.channels)
    whole = not (units.is_floating_point() or units.is_complex() or units.dtype == torch.bool)
    if units.dim() != 2 or units.size(1) != channels or not whole:
        raise InputError(
            f"{where}: a tensor {tuple(units.shape)} of {units.dtype}, ids (frames, {channels}) expected, one column "
            f"for each of {', '.join(dictionary.channels)}"
        )
    units = units.detach().cpu().long()
    for channel, symbols, ids in zip(dictionary.channels, dictionary.dictionaries, units.t(), strict=True):
        allowed = ids.ge(dictionary.nspecial) & ids.lt(len(symbols))
        for symbol in special:
            allowed |= ids.eq(symbol)
        if not bool(allowed.all()):
            raise InputError(
                f"{where}: id {int(ids[~allowed][0])} in {channel} is no unit of dict.{channel}.txt: a tensor holds "
                f"ids, {dictionary.nspecial} to {len(symbols) - 1}, which encode() makes of units"
            )
    return units
