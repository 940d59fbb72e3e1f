"""Generic resources in words: as an operator gives them to a node, and as a task is told which it got."""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.errors import InvalidArgument
from swarmpy.model import grammar
from swarmpy.model.grammar import shown
from swarmpy.model.specs import GenericResource

VARIABLE_PREFIX = "DOCKER_RESOURCE_"
"""Of the variable by which Docker tells a task what it got."""
_MOST = 2**31 - 1
_LONGEST = 128


def parse(texts: Iterable[str]) -> tuple[GenericResource, ...]:
    """What ``KIND=COUNT`` and ``KIND=NAME`` say, several with commas between them; a kind has a count or names.

    Raises InvalidArgument.
    """
    counts: dict[str, int] = {}
    names: dict[str, tuple[str, ...]] = {}
    for text in (part.strip() for each in texts for part in each.split(",")):
        kind, equals, value = text.partition("=")
        is_text = value.isprintable() and not value.isspace() and len(value) <= _LONGEST
        if not equals or not value or not grammar.is_name(kind) or len(kind) > _LONGEST or not is_text:
            raise InvalidArgument(f"invalid generic resource {shown(text)}: write KIND=COUNT or KIND=NAME")
        if value.isascii() and value.isdecimal():
            if kind in counts:
                raise InvalidArgument(f"generic resource {shown(kind)} is given two counts")
            counts[kind] = _count(text, value)
        elif value in names.get(kind, ()):
            raise InvalidArgument(f"generic resource {shown(text)} is given twice")
        else:
            names[kind] = (*names.get(kind, ()), value)
    for kind in counts.keys() & names.keys():
        raise InvalidArgument(f"generic resource {shown(kind)} has a count and names: give one or the other")
    discrete = (GenericResource(kind=kind, count=count) for kind, count in counts.items())
    named = (GenericResource(kind=kind, names=given) for kind, given in names.items())
    return tuple(sorted((*discrete, *named), key=lambda each: each.kind))


def merged(told: Iterable[GenericResource], given: Iterable[GenericResource]) -> tuple[GenericResource, ...]:
    """All kinds; what was ``given`` to this daemon counts more than what its engine told."""
    by_kind = {each.kind: each for each in (*told, *given)}
    return tuple(by_kind[kind] for kind in sorted(by_kind))


def variables(got: Iterable[GenericResource]) -> list[str]:
    """As Docker has them: ``DOCKER_RESOURCE_GPU=2``, or names with commas between them."""
    return [f"{VARIABLE_PREFIX}{each.kind.upper()}={','.join(each.names) or each.count}" for each in got]


def _count(text: str, digits: str) -> int:
    if len(digits) > 10 or not 1 <= int(digits) <= _MOST:
        raise InvalidArgument(f"invalid generic resource {shown(text)}: a count is from 1 to {_MOST}")
    return int(digits)
