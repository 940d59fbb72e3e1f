"""Variables in the values of a stack file.

``$X`` and ``${X}``; ``${X:-default}`` and ``${X-default}``; ``${X:?text}`` and ``${X?text}``; ``$$`` is a dollar sign.
The environment is given; nothing is read here. Keys are never interpolated, and what a variable stands for is not
looked at again. Where a substitution stands for a number or
a boolean (replicas, ports, ...) the resulting text is turned into one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from swarmpy.compose.yaml_reader import MAX_CHARACTERS, Document, Path

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<named>[_a-zA-Z][_a-zA-Z0-9]*)"
    r"|\{(?P<braced>[_a-zA-Z][_a-zA-Z0-9]*)(?:(?P<operator>:?[-?])(?P<operand>[^}]*))?\}|(?P<invalid>))"
)


def interpolate(document: Document, environment: Mapping[str, str]) -> Document:
    """The document with all variables replaced.

    Raises ComposeError for bad syntax, a required variable that is not set, and a document that becomes too large.
    """
    interpolation = _Interpolation(document, environment)
    return attrs.evolve(document, data=interpolation.value((), document.data))


def substitute(text: str, environment: Mapping[str, str]) -> str:
    """``text`` with its variables replaced; one that is not set is "". Raises ValueError."""
    return _VARIABLE.sub(lambda match: _replacement(match, environment), text) if "$" in text else text


def _replacement(match: re.Match[str], environment: Mapping[str, str]) -> str:
    if match["escaped"] is not None:
        return "$"
    if match["invalid"] is not None:
        raise ValueError(_bad_syntax(match.string, match.start()))
    name = match["named"] or match["braced"]
    value = environment.get(name)
    operator, operand = match["operator"], match["operand"] or ""
    if operator is None:
        return value or ""
    is_given = value is not None and (value != "" or not operator.startswith(":"))
    if is_given:
        assert value is not None
        return value
    if operator.endswith("?"):
        raise ValueError(f"required variable {name} is missing a value" + (f": {operand}" if operand else ""))
    return operand


def _bad_syntax(text: str, position: int) -> str:
    shown = text[position : position + 40]
    end = shown.find("}")
    if shown.startswith("${") and end > 0:
        shown = shown[: end + 1]
        return (
            f"bad variable {shown!r}: the forms are ${{X}}, ${{X:-default}}, ${{X-default}}, ${{X:?text}} and "
            "${X?text}; write $$ for a dollar sign"
        )
    return f"a lone '$' in {shown!r}: write $$ for a dollar sign"


class _Interpolation:
    """One document's; counts what the variables add."""

    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment
        self._characters = 0

    def value(self, path: Path, value: Any) -> Any:
        """The value at ``path`` with all its variables replaced. Raises ComposeError."""
        if isinstance(value, str):
            if "$" not in value:
                return value
            try:
                text = _VARIABLE.sub(self._counted, value)
            except ValueError as error:
                raise self._document.error(path, str(error)) from error
            return text if text == value else _cast(self._document, path, text)
        if isinstance(value, dict):
            return {key: self.value((*path, key), item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value((*path, index), item) for index, item in enumerate(value)]
        return value

    def _counted(self, match: re.Match[str]) -> str:
        text = _replacement(match, self._environment)
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise ValueError(f"the variables of this file stand for more than {MAX_CHARACTERS} characters")
        return text


# -- numbers and booleans ---------------------------------------------------------------------------------------------

_TRUE = frozenset({"true", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "no", "n", "off", "0"})
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}", re.ASCII)


def _to_int(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise ValueError(f"must be a whole number, not {text!r} (after its variables were replaced)")
    return int(text)


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"must be a number, not {text!r} (after its variables were replaced)") from error


def _to_bool(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"must be true or false, not {text!r} (after its variables were replaced)")


_SERVICE_CASTS: dict[str, Callable[[str], int | float | bool]] = {
    "configs.*.mode": _to_int,
    "secrets.*.mode": _to_int,
    "healthcheck.retries": _to_int,
    "healthcheck.disable": _to_bool,
    "deploy.replicas": _to_int,
    "deploy.update_config.parallelism": _to_int,
    "deploy.update_config.max_failure_ratio": _to_float,
    "deploy.rollback_config.parallelism": _to_int,
    "deploy.rollback_config.max_failure_ratio": _to_float,
    "deploy.restart_policy.max_attempts": _to_int,
    "deploy.placement.max_replicas_per_node": _to_int,
    "deploy.resources.limits.pids": _to_int,
    "ports.*.target": _to_int,
    "ports.*.published": _to_int,
    "ulimits.*": _to_int,
    "ulimits.*.hard": _to_int,
    "ulimits.*.soft": _to_int,
    "volumes.*.read_only": _to_bool,
    "volumes.*.volume.nocopy": _to_bool,
    "volumes.*.tmpfs.size": _to_int,
    "init": _to_bool,
    "privileged": _to_bool,
    "read_only": _to_bool,
    "stdin_open": _to_bool,
    "tty": _to_bool,
}
_TOP_CASTS: dict[str, Callable[[str], int | float | bool]] = {
    "networks.*.external": _to_bool,
    "networks.*.internal": _to_bool,
    "networks.*.attachable": _to_bool,
    "volumes.*.external": _to_bool,
    "secrets.*.external": _to_bool,
    "configs.*.external": _to_bool,
}
_CASTS = {tuple(key.split(".")): cast for key, cast in _TOP_CASTS.items()}
_CASTS |= {("services", "*", *key.split(".")): cast for key, cast in _SERVICE_CASTS.items()}


def _cast(document: Document, path: Path, text: str) -> Any:
    for pattern, cast in _CASTS.items():
        if len(pattern) == len(path) and all(p in ("*", part) for p, part in zip(pattern, path, strict=True)):
            try:
                return cast(text)
            except ValueError as error:
                raise document.error(path, str(error)) from error
    return text
