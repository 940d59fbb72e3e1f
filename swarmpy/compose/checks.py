"""Building blocks of the schema: each check looks at one value of a document; its ComposeError names that value."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from swarmpy.compose.yaml_reader import Document, Path
from swarmpy.errors import ComposeError

Check = Callable[[Document, Path, Any], None]
OUR_KEYS = "x-swarmpy-"
"""How the keys begin that we add to the format."""


def kind(value: Any) -> str:
    """What a value is, for people."""
    match value:
        case None:
            return "empty"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}" if len(str(value)) <= 24 else "a number"
        case str():
            return f"the string {value!r}" if len(value) <= 40 else "a string"
        case list():
            return "a list"
        case _:
            return "a mapping"


def is_number(value: Any) -> bool:
    """True for an int or float that is not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def text(document: Document, path: Path, value: Any) -> None:
    """A string."""
    if not isinstance(value, str):
        hint = ": put it in quotes" if isinstance(value, bool | int | float) else ""
        raise document.error(path, f"must be a string, not {kind(value)}{hint}")


def text_or_number(document: Document, path: Path, value: Any) -> None:
    """A string or a number."""
    if not isinstance(value, str) and not is_number(value):
        hint = ": put it in quotes" if isinstance(value, bool) else ""
        raise document.error(path, f"must be a string or a number, not {kind(value)}{hint}")


def plain_value(document: Document, path: Path, value: Any) -> None:
    """The value of a variable or label: a string, a number or nothing."""
    if value is not None and not isinstance(value, str) and not is_number(value):
        hint = ": put it in quotes" if isinstance(value, bool) else ""
        raise document.error(path, f"must be a string, number or null, not {kind(value)}{hint}")


def boolean(document: Document, path: Path, value: Any) -> None:
    """true or false."""
    if not isinstance(value, bool):
        raise document.error(path, f"must be true or false, not {kind(value)}")


def whole_number(minimum: int = 0, maximum: int = 2**63 - 1) -> Check:
    """A whole number between two bounds."""

    def check(document: Document, path: Path, value: Any) -> None:
        is_whole = is_number(value) and (isinstance(value, int) or value.is_integer())
        if not is_whole:
            raise document.error(path, f"must be a whole number, not {kind(value)}")
        if not minimum <= value <= maximum:
            raise document.error(path, f"must be from {minimum} to {maximum}, not {value}")

    return check


def number(document: Document, path: Path, value: Any) -> None:
    """A number that is neither negative nor infinite."""
    if not is_number(value) or not 0 <= value < float("inf"):
        raise document.error(path, f"must be a number, not {kind(value)}")


def formatted(parse: Callable[[str], object]) -> Check:
    """A string that ``parse`` accepts; its ValueError is the reason."""

    def check(document: Document, path: Path, value: Any) -> None:
        text(document, path, value)
        try:
            parse(value)
        except ValueError as error:
            raise document.error(path, str(error)) from error

    return check


def one_of(*words: str) -> Check:
    """One of a few words."""

    def check(document: Document, path: Path, value: Any) -> None:
        text(document, path, value)
        if value not in words:
            raise document.error(path, f"must be {' or '.join(words)}, not {value!r}")

    return check


def list_of(item: Check, *, unique: bool = False) -> Check:
    """A list, each item of which passes ``item``."""

    def check(document: Document, path: Path, value: Any) -> None:
        if not isinstance(value, list):
            raise document.error(path, f"must be a list, not {kind(value)}")
        for index, entry in enumerate(value):
            item(document, (*path, index), entry)
        if unique:
            _refuse_repeats(document, path, value)

    return check


def _refuse_repeats(document: Document, path: Path, value: list[Any]) -> None:
    seen: set[str] = set()
    for index, entry in enumerate(value):
        # repr tells 1 from "1" and true, which compare equal.
        shown = repr(entry)
        if shown in seen:
            raise document.error((*path, index), f"{shown[:60]} is in the list twice")
        seen.add(shown)


def mapping_of(value_check: Check, *, name: Callable[[str], bool] | None = None) -> Check:
    """A mapping with free keys, each value of which passes ``value_check``; ``name`` says which keys are good names."""

    def check(document: Document, path: Path, value: Any) -> None:
        if not isinstance(value, dict):
            raise document.error(path, f"must be a mapping, not {kind(value)}")
        for key, item in value.items():
            if name is not None and not name(key):
                raise document.error((*path, key), "a name is made of letters, digits, '.', '_' and '-'")
            value_check(document, (*path, key), item)

    return check


def either(as_text: Check | None = None, as_list: Check | None = None, as_mapping: Check | None = None) -> Check:
    """A value of one of several shapes, checked by the shape it has."""
    shapes = [
        word
        for word, given in (("a string", as_text), ("a list", as_list), ("a mapping", as_mapping))
        if given is not None
    ]

    def check(document: Document, path: Path, value: Any) -> None:
        chosen = as_list if isinstance(value, list) else as_mapping if isinstance(value, dict) else as_text
        if chosen is None or (value is None and chosen is as_text):
            raise document.error(path, f"must be {' or '.join(shapes)}, not {kind(value)}")
        chosen(document, path, value)

    return check


def optional(inner: Check) -> Check:
    """Nothing, or a value that passes ``inner``."""

    def check(document: Document, path: Path, value: Any) -> None:
        if value is not None:
            inner(document, path, value)

    return check


def anything(document: Document, path: Path, value: Any) -> None:
    """Whatever it is, it is not used."""


def record(keys: Mapping[str, Check], hints: Mapping[str, str] | None = None, required: tuple[str, ...] = ()) -> Check:
    """A mapping with known keys; ``hints`` tells what to do instead of a key we do not know.

    ``x-`` keys are free, but those of our own: one that is misspelt or misplaced would be missed by nobody.
    """
    hints = hints or {}

    def check(document: Document, path: Path, value: Any) -> None:
        if not isinstance(value, dict):
            raise document.error(path, f"must be a mapping, not {kind(value)}")
        for key, item in value.items():
            known = keys.get(key)
            if known is not None:
                known(document, (*path, key), item)
            elif not key.startswith("x-") or key.startswith(OUR_KEYS):
                raise _unknown_key(document, path, key, keys, hints)
        for key in required:
            if key not in value:
                raise document.error(path, f"the key {key!r} is missing")

    return check


def _unknown_key(
    document: Document, path: Path, key: str, keys: Mapping[str, Check], hints: Mapping[str, str]
) -> ComposeError:
    shown = key if len(key) <= 60 else key[:57] + "..."
    if key in hints:
        reason = f'key "{shown}" is not supported: {hints[key]}'
    else:
        close = difflib.get_close_matches(key[:60], keys, 1, 0.6)
        reason = f'unknown key "{shown}"' + (f' (did you mean "{close[0]}"?)' if close else "")
    return document.error(path, reason, at=(*path, key))
