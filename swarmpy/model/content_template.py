"""Placeholders in the data of secrets and configs: those of a spec, and what the task itself is given.

As :mod:`swarmpy.model.template`, no language: ``{{env "X"}}``, ``{{secret "TARGET"}}``, ``{{config "TARGET"}}``, the
fields of a spec, a text in quotes, a comment; ``{{-`` and ``-}}`` take the white space beside them away. Whatever else
Go's templates can do (conditions, loops, pipes, calls) is refused. Nothing that is put in is looked at again.

The data may be a secret: a reason says on which line the trouble is, and never quotes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

import attrs

from swarmpy.model.objects import Task
from swarmpy.model.template import FIELDS, NodeFacts

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<comment>/\*.*?\*/)|(?P<word>[.\w]+)|(?P<end>-?\}\})""",
    re.DOTALL,
)
_LABEL = ".Service.Labels."
KNOWN = ", ".join((*FIELDS, 'index .Service.Labels "key"', 'env "NAME"', 'secret "TARGET"', 'config "TARGET"'))
_Word = tuple[str, str]
"""A token's kind and its text; of a text in quotes, what it stands for."""


@attrs.frozen(kw_only=True)
class ContentFacts:
    """What data may ask for. Secrets and configs by the targets that the task has them at."""

    task: Task
    node: NodeFacts
    env: Mapping[str, str]
    secrets: Mapping[str, bytes] = attrs.field(repr=False)
    configs: Mapping[str, bytes] = attrs.field(repr=False)


def expand_content(data: bytes, facts: ContentFacts, most: int) -> bytes:
    """``data`` with every placeholder replaced, at most ``most`` bytes of it.

    Bytes that are no text stay as they are. Raises ValueError with a reason that can be shown to anybody.
    """
    text = _text(data)
    out: list[bytes] = []
    size, place, trims = 0, 0, False

    def put(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size > most:
            raise ValueError(f"with its placeholders replaced it has more than {most} bytes")
        out.append(piece)

    while (start := text.find("{{", place)) >= 0:
        try:
            words, end, trims_left, trims_right = _action(text, start)
            value = _bytes(_value(words, facts))
        except ValueError as error:
            raise ValueError(f"line {text.count(chr(10), 0, start) + 1}: {error}") from None
        before = text[place:start]
        before = before.lstrip() if trims else before
        put(_bytes(before.rstrip() if trims_left else before))
        put(value)
        place, trims = end, trims_right
    put(_bytes(text[place:].lstrip() if trims else text[place:]))
    return b"".join(out)


def _action(text: str, start: int) -> tuple[list[_Word], int, bool, bool]:
    """What stands between ``{{`` at ``start`` and its end: the words, where it ends, what it trims on either side."""
    words: list[_Word] = []
    place = start + 2
    trims_left = text[place : place + 1] == "-" and text[place + 1 : place + 2].isspace()
    place += trims_left
    is_after_space = False
    while (match := _TOKEN.match(text, place)) is not None:
        place, kind, word = match.end(), str(match.lastgroup), match[0]
        if kind == "end":
            if word[0] == "-" and not is_after_space:
                break
            return words, place, trims_left, word[0] == "-"
        is_after_space = kind == "space"
        if kind == "text":
            words.append((kind, _unquoted(word)))
        elif kind != "space":
            words.append((kind, word))
    raise ValueError(f"a placeholder that does not end, or does what is not done here: known are {KNOWN}")


def _unquoted(word: str) -> str:
    if word[0] == "`":
        return word[1:-1]
    try:
        return str(json.loads(word, strict=False))
    except ValueError:
        raise ValueError("a text in quotes with an escape that is not known") from None


def _value(words: list[_Word], facts: ContentFacts) -> str:
    sources: Mapping[str, Callable[[str], str]] = {
        "env": lambda name: facts.env.get(name, ""),
        "secret": lambda target: _given("secret", target, facts.secrets),
        "config": lambda target: _given("config", target, facts.configs),
    }
    match words:
        case [("comment", _)]:
            return ""
        case [("text", text)]:
            return text
        case [("word", word)] if word in FIELDS:
            return FIELDS[word](facts.task, facts.node)
        case [("word", word)] if word.startswith(_LABEL) and "." not in word.removeprefix(_LABEL):
            return facts.task.service_labels.get(word.removeprefix(_LABEL), "")
        case [("word", "index"), ("word", ".Service.Labels"), ("text", key)]:
            return facts.task.service_labels.get(key, "")
        case [("word", word), ("text", argument)] if word in sources:
            return sources[word](argument)
        case _:
            raise ValueError(f"a placeholder that is not known: known are {KNOWN}")


def _given(kind: str, target: str, given: Mapping[str, bytes]) -> str:
    data = given.get(target)
    if data is None:
        raise ValueError(f"it asks for a {kind} by a target that the service has none at")
    return _text(data)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half of a pair, in a label, a variable or an escape. The error itself would quote it.
        raise ValueError("what is put in has a character that stands for nothing") from None
