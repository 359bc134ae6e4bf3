"""Prompt formats: a dialogue of turns to token ids, and which of them the assistant's are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from speechdlm_ext.data.llm_tokenizer import LLMTokenizer
from speechdlm_ext.errors import InputError

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = (SYSTEM, USER, ASSISTANT)


class Turn(NamedTuple):
    """What one side says; its audio is where the text has placeholders."""

    role: str
    text: str


class PromptFormat(NamedTuple):
    """Templates of turns, in which ``{text}``, ``{system}``, ``{bos}`` and ``{eos}`` are replaced.

    Attributes:
        user: a user's turn.
        header: what comes before an assistant's answer, and is not trained on.
        assistant: an answer with its end.
        system: the turn of a system prompt; None where it goes into the first user's turn.
        user_with_system: that turn.
        opening: before everything.
    """

    user: str
    header: str
    assistant: str
    system: str | None = None
    user_with_system: str = ""
    opening: str = ""


_TURN = "<|im_start|>{role}\n{{text}}<|im_end|>\n"
_CHATML = PromptFormat(
    _TURN.format(role=USER), "<|im_start|>assistant\n", "{text}<|im_end|>\n", _TURN.format(role=SYSTEM)
)
_LLAMA3 = "<|start_header_id|>{role}<|end_header_id|>\n\n"
# By the names that published configurations give them in ``prompt_format``.
FORMATS = {
    "llama2": PromptFormat(
        "{bos}[INST] {text} [/INST]",
        "",
        "{text} {eos}",
        user_with_system="{bos}[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{text} [/INST]",
    ),
    "mistral": PromptFormat(
        "[INST] {text} [/INST]",
        "",
        "{text}{eos}",
        user_with_system="[INST] {system}\n\n{text} [/INST]",
        opening="{bos}",
    ),
    "llama3": PromptFormat(
        _LLAMA3.format(role=USER) + "{text}<|eot_id|>",
        _LLAMA3.format(role=ASSISTANT),
        "{text}<|eot_id|>",
        _LLAMA3.format(role=SYSTEM) + "{text}<|eot_id|>",
        opening="{bos}",
    ),
    "gemma": PromptFormat(
        "<start_of_turn>user\n{text}<end_of_turn>\n",
        "<start_of_turn>model\n",
        "{text}<end_of_turn>\n",
        user_with_system="<start_of_turn>user\n{system}\n\n{text}<end_of_turn>\n",
        opening="{bos}",
    ),
    "qwen": _CHATML,
    "chatml": _CHATML,
    "plain": PromptFormat("{text}", "", "{text}{eos}", "{text}\n", opening="{bos}"),
}
CHAT = "chat"  # the tokenizer's own chat template


def encode_dialog(tokenizer: LLMTokenizer, turns: Sequence[Turn], prompt_format: str) -> tuple[list[int], list[bool]]:
    """Token ids of a dialogue, and which of them are the assistant's, its end token included.

    Without an assistant's turn at the end it is a prompt, and ends where the answer begins.

    Args:
        prompt_format: a name in :data:`FORMATS`, or ``chat``.

    Raises:
        InputError: an unknown format or role, or no turns.
    """
    check_roles(turns)
    if not turns:
        raise InputError("a dialogue without turns")
    if prompt_format == CHAT:
        return _encode_chat(tokenizer, turns)
    if prompt_format not in FORMATS:
        raise InputError(f"prompt_format {prompt_format}: expected one of {', '.join(FORMATS)}, {CHAT}")
    form = FORMATS[prompt_format]
    ids: list[int] = []
    mask: list[bool] = []

    def add(template: str, text: str, trained: bool, system: str = "") -> None:
        # Placeholders first: braces in the text stay what they are.
        parts = {"{bos}": tokenizer.bos, "{eos}": tokenizer.eos, "{system}": system, "{text}": text}
        for name, value in parts.items():
            template = template.replace(name, value)
        found = tokenizer.text_to_ids(template) if template else []
        ids.extend(found)
        mask.extend([trained] * len(found))

    system = ""
    opening = form.opening
    for turn in turns:
        if turn.role == SYSTEM and form.system is None:
            system = turn.text
        elif turn.role == SYSTEM:
            add(opening + str(form.system), turn.text, False)
            opening = ""
        elif turn.role == USER:
            add(opening + (form.user_with_system if system else form.user), turn.text, False, system)
            system = opening = ""
        else:
            add(opening + form.header, "", False)
            add(form.assistant, turn.text, True)
            opening = ""
    if turns[-1].role != ASSISTANT:
        add(opening + form.header, "", False)
    return ids, mask


def _encode_chat(tokenizer: LLMTokenizer, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
    """By the tokenizer's template, whose text for fewer turns is expected to be the beginning of that for more."""
    said = [{"role": turn.role, "content": turn.text} for turn in turns]
    ids: list[int] = []
    mask: list[bool] = []
    before = ""
    for number, turn in enumerate(turns):
        last = number + 1 == len(turns)
        stops = [(tokenizer.apply_chat_template(said[:number], True), False)] if turn.role == ASSISTANT else []
        stops.append((tokenizer.apply_chat_template(said[: number + 1], last and turn.role != ASSISTANT), bool(stops)))
        for text, trained in stops:
            if not text.startswith(before):
                raise InputError("this tokenizer's chat template rewrites earlier turns: choose a prompt_format")
            found = tokenizer.text_to_ids(text[len(before) :])
            ids.extend(found)
            mask.extend([trained] * len(found))
            before = text
    return ids, mask


def read_prompt(prompt: Iterable[Mapping[str, Any]], where: str = "prompt") -> list[Turn]:
    """Turns of a dialogue as NeMo's ``generate`` takes it: ``{role, content}`` or ``{role, slots: {message}}``.

    Raises:
        InputError: a turn is something else, or of an unknown role.
    """
    turns = []
    for turn in prompt:
        slots = turn.get("slots") or {}
        text = turn.get("content", slots.get("message", slots.get("system")))
        if not isinstance(text, str):
            raise InputError(f"{where}: a turn without text; expected {{'role': 'user', 'content': '…'}}")
        role = SYSTEM if turn.get("role") == "system_and_user" and "message" not in slots else turn.get("role")
        if slots.get("system") and "message" in slots:
            turns.append(Turn(SYSTEM, str(slots["system"])))
        turns.append(Turn(USER if role == "system_and_user" else str(role), text))
    check_roles(turns, where)
    return turns


def name_placeholders(
    prompts: Iterable[Iterable[Mapping[str, Any]]], tag: str
) -> tuple[list[list[Mapping[str, Any]]], list[str]]:
    """Prompts with a placeholder for each file that a turn names in ``audio``, and these files in order."""
    paths: list[str] = []
    dialogs: list[list[Mapping[str, Any]]] = []
    for prompt in prompts:
        dialogs.append([])
        for turn in prompt:
            if turn.get("audio"):
                text = str(turn.get("content", ""))
                missing = len(turn["audio"]) - text.count(tag)
                turn = {**turn, "content": " ".join([*[text] * bool(text), *[tag] * missing])}
                paths += turn["audio"]
            dialogs[-1].append(turn)
    return dialogs, paths


def check_roles(turns: Iterable[Turn], where: str = "dialogue") -> None:
    """Raise :class:`InputError` for a role that is not known."""
    for turn in turns:
        if turn.role not in ROLES:
            raise InputError(f"{where}: role {turn.role}; expected {', '.join(ROLES)}")


def join_turns(turns: Iterable[Turn]) -> list[Turn]:
    """With neighbouring turns of one role as one, a space between their texts, as conversations are read."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            turn = Turn(turn.role, f"{joined.pop().text} {turn.text}")
        joined.append(turn)
    return joined
