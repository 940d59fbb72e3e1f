"""Options that write into a service's spec: each declared once, with its place there, for ``create`` and ``update``.

The spec is the API's JSON, as it was read: what no option speaks of goes back as it came, also what a later version of
the managers has put there. Pure: what an option needs from outside was read by the command.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import click

from swarmpy.errors import InvalidArgument

Json = dict[str, Any]
Place = tuple[str, ...]
"""Names of objects, and of the field in the innermost."""
Given = Mapping[str, Any]
"""The options of a command line, by the names that click gives them."""
Read = Callable[[str], Any]
"""The value that a text means. Raises ValueError."""
Kind = click.ParamType[Any]


class SpecOption(Protocol):
    """One row of the table."""

    def parameters(self, *, is_new: bool) -> list[click.Option]:
        """The options of ``create`` (``is_new``) or ``update``; [] where it has none."""

    def apply(self, spec: Json, given: Given) -> list[str]:
        """Writes what was given into ``spec``; returns what is to be told to the user. Raises InvalidArgument."""


class Value(Kind):
    """A value that a function reads; what is wrong with it is told with the name of the option."""

    def __init__(self, read: Read, name: str) -> None:
        self._read = read
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value. Fails with the reason."""
        try:
            return self._read(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parameter_name(option: str) -> str:
    """``--env-add`` as click knows it."""
    return option.removeprefix("--").replace("-", "_")


def field_at(spec: Json, place: Place, within: Mapping[str, Any] | None = None) -> Json:
    """The object that has the field ``place``, made where there is none; the innermost begins as ``within`` then."""
    for name in place[:-2]:
        spec = _object_in(spec, name, {})
    return _object_in(spec, place[-2], within or {}) if len(place) > 1 else spec


def _object_in(outer: Json, name: str, new: Mapping[str, Any]) -> Json:
    if not isinstance(outer.get(name), dict):
        outer[name] = dict(new)
    inner: Json = outer[name]
    return inner


# -- one value --------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class One:
    """An option with one value."""

    name: str
    help: str
    place: Place
    read: Read | Kind = str
    metavar: str = "TEXT"
    short: str = ""
    within: Mapping[str, Any] = attrs.field(factory=dict)
    """What the object around the field has when it is made for this option."""
    for_update: bool = True

    def parameters(self, *, is_new: bool) -> list[click.Option]:
        """The same for both."""
        if not (is_new or self.for_update):
            return []
        return [option(self.name, self.help, self.read, self.metavar, short=self.short)]

    def apply(self, spec: Json, given: Given) -> list[str]:
        """Sets the field."""
        value = given.get(parameter_name(self.name))
        if value is not None:
            field_at(spec, self.place, self.within)[self.place[-1]] = value
        return []


@attrs.frozen(kw_only=True)
class Flag:
    """Yes or no: ``--init``, ``--no-init``; as with Docker also ``--init=false`` (see :class:`SpecCommand`)."""

    name: str
    help: str
    place: Place
    short: str = ""
    for_update: bool = True

    def parameters(self, *, is_new: bool) -> list[click.Option]:
        """The same for both."""
        if not (is_new or self.for_update):
            return []
        names = [*([self.short] if self.short else []), f"{self.name}/{opposite(self.name)}"]
        return [click.Option(names, default=None, help=self.help)]

    def apply(self, spec: Json, given: Given) -> list[str]:
        """Sets the field."""
        value = given.get(parameter_name(self.name))
        if value is not None:
            field_at(spec, self.place)[self.place[-1]] = value
        return []


def opposite(flag: str) -> str:
    """``--no-init`` of ``--init``."""
    return f"--no-{flag.removeprefix('--')}"


@attrs.frozen(kw_only=True)
class Own:
    """An option that does something of its own to the spec."""

    name: str
    help: str
    write: Callable[[Json, Any], None]
    """Of the spec and the value. Raises InvalidArgument."""
    read: Read | Kind | None = str
    """None: a flag."""
    metavar: str = "TEXT"
    for_create: bool = True
    for_update: bool = True
    is_multiple: bool = False

    def parameters(self, *, is_new: bool) -> list[click.Option]:
        """Where it is to be."""
        if not (self.for_create if is_new else self.for_update):
            return []
        if self.read is None:
            return [click.Option([self.name], is_flag=True, help=self.help)]
        return [option(self.name, self.help, self.read, self.metavar, is_multiple=self.is_multiple)]

    def apply(self, spec: Json, given: Given) -> list[str]:
        """Does it when it was asked for."""
        value = given.get(parameter_name(self.name))
        if value is not None and value is not False and value != ():
            self.write(spec, value)
        return []


def option(
    name: str, text: str, read: Read | Kind, metavar: str, *, short: str = "", is_multiple: bool = False
) -> click.Option:
    """An option of click whose value is read by ``read``."""
    kind = read if isinstance(read, click.ParamType) else Value(read, metavar)
    shown = None if isinstance(kind, click.Choice) else metavar
    more = "  May be repeated." if is_multiple else ""
    names = [*([short] if short else []), name]
    return click.Option(names, type=kind, metavar=shown, multiple=is_multiple, help=text + more)


# -- several values ---------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Many:
    """A list: ``--env`` of ``create``; ``--env-add`` and ``--env-rm`` of ``update``."""

    name: str
    help: str
    place: Place
    read: Callable[[str], Sequence[Any]]
    """The items that a text means."""
    metavar: str
    rm_metavar: str = ""
    """The same, where it is ""."""
    key: Callable[[Any], Hashable] = str
    """An item that is added takes the place of one with the same key."""
    is_meant: Callable[[str, Any], bool] = operator.eq
    """True when the text after ``-rm`` means the item. Raises ValueError for a text that can mean none."""
    short: str = ""
    within: Mapping[str, Any] = attrs.field(factory=dict)
    """As of :class:`One`."""
    for_update: bool = True

    def parameters(self, *, is_new: bool) -> list[click.Option]:
        """One for ``create``, two for ``update``."""
        if is_new:
            return [option(self.name, self.help, self.read, self.metavar, short=self.short, is_multiple=True)]
        if not self.for_update:
            return []
        return [
            option(f"{self.name}-add", self.help, self.read, self.metavar, is_multiple=True),
            option(f"{self.name}-rm", "Take it away.", str, self.rm_metavar or self.metavar, is_multiple=True),
        ]

    def apply(self, spec: Json, given: Given) -> list[str]:
        """Removes, then adds; what stays keeps its place."""
        removed = given.get(parameter_name(f"{self.name}-rm")) or ()
        added = [
            item
            for name in (self.name, f"{self.name}-add")
            for items in given.get(parameter_name(name)) or ()
            for item in items
        ]
        if not (removed or added):
            return []
        holder = field_at(spec, self.place, self.within)
        kept, missed = self._without(list(holder.get(self.place[-1]) or []), removed)
        found = {self.key(item): item for item in kept}
        found.update((self.key(item), item) for item in added)
        holder[self.place[-1]] = list(found.values())
        return missed

    def _without(self, items: list[Any], removed: Sequence[str]) -> tuple[list[Any], list[str]]:
        missed = []
        for text in removed:
            try:
                left = [item for item in items if not self.is_meant(text, item)]
            except ValueError as error:
                raise InvalidArgument(f"{self.name}-rm: {error}") from error
            if len(left) == len(items):
                missed.append(f"{self.name}-rm {text}: there is none")
            items = left
        return items, missed


@attrs.frozen(kw_only=True)
class Pairs:
    """Names with values: ``--label`` of ``create``; ``--label-add`` and ``--label-rm`` of ``update``."""

    name: str
    help: str
    place: Place
    short: str = ""

    def parameters(self, *, is_new: bool) -> list[click.Option]:
        """One for ``create``, two for ``update``."""
        if is_new:
            return [option(self.name, self.help, read_pair, "KEY=VALUE", short=self.short, is_multiple=True)]
        return [
            option(f"{self.name}-add", self.help, read_pair, "KEY=VALUE", is_multiple=True),
            option(f"{self.name}-rm", "Take it away.", str, "KEY", is_multiple=True),
        ]

    def apply(self, spec: Json, given: Given) -> list[str]:
        """Removes, then adds."""
        removed = given.get(parameter_name(f"{self.name}-rm")) or ()
        added = [pair for name in (self.name, f"{self.name}-add") for pair in given.get(parameter_name(name)) or ()]
        if not (removed or added):
            return []
        holder = field_at(spec, self.place)
        pairs = dict(holder.get(self.place[-1]) or {})
        missed = [f"{self.name}-rm {key}: there is none" for key in removed if pairs.pop(key, None) is None]
        holder[self.place[-1]] = pairs | dict(added)
        return missed


def read_pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE``, or ``KEY`` with the value "". Raises ValueError."""
    key, _, value = text.partition("=")
    if not key or key != key.strip():
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return key, value


# -- the command ------------------------------------------------------------------------------------------------------


class SpecCommand(click.Command):
    """A command whose flags may also be given as ``--init=false``, as Docker's may."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click; a flag with a value becomes the flag, or its opposite. What follows an image is left alone."""
        options = [param for param in self.params if isinstance(param, click.Option)]
        flags = {name for param in options if param.secondary_opts for name in param.opts}
        with_value = {name for param in options if not param.is_flag for name in param.opts}
        plain: list[str] = []
        rest = iter(args)
        for text in rest:
            is_option = text.startswith("-") and text not in ("-", "--")
            plain.append(_plain_flag(text, flags))
            if not is_option and not (ctx.allow_interspersed_args and text != "--"):
                break
            if text in with_value:
                plain.extend(value for value in [next(rest, None)] if value is not None)
        return super().parse_args(ctx, [*plain, *rest])


_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


def _plain_flag(text: str, flags: set[str]) -> str:
    name, equals, value = text.partition("=")
    if not equals or name not in flags or value.lower() not in (*_TRUE, *_FALSE):
        return text
    return name if value.lower() in _TRUE else opposite(name)
