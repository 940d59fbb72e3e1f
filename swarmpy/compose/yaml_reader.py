"""YAML text to plain data that remembers its lines.

Scalars are read as the tools of this field read them (YAML 1.2 with a few friendly additions): ``yes``, ``no``, ``on``
and ``22:22`` are strings, ``0440`` and ``0o440`` are octal, duplicate keys are errors. No object is ever constructed
from a tag, only the first document of a stream counts, and size, depth and the expansion of aliases are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs
import yaml

from swarmpy.errors import ComposeError
from swarmpy.model.grammar import printable

Path = tuple[str | int, ...]

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 100
MAX_NODES = 200_000
"""Values in a document after its aliases are expanded; the guard against documents that multiply themselves."""
MAX_CHARACTERS = MAX_BYTES
"""Of all texts in a document after its aliases are expanded: one text may be long, or be meant many times, not both."""
MAX_REASON = 300


@attrs.frozen(kw_only=True)
class Document:
    """A mapping read from ``file``; ``places`` knows ``file:line`` of each path in it."""

    file: str
    data: dict[str, Any]
    places: Mapping[Path, str] = attrs.field(factory=dict, repr=False)

    def error(self, path: Path, reason: str, *, at: Path | None = None) -> ComposeError:
        """The error of what stands at ``path``, named by file, line and key; ``at`` is whose line, if another's."""
        place = self.file
        line_path = path if at is None else at
        for length in range(len(line_path), -1, -1):
            if line_path[:length] in self.places:
                place = self.places[line_path[:length]]
                break
        if len(reason) > MAX_REASON:
            # What is quoted is long; what is wrong with it stands before or after it.
            reason = f"{reason[: MAX_REASON // 2]}...{reason[-MAX_REASON // 2 :]}"
        reason = printable(reason)
        return ComposeError(f"{place}: {printable(dotted(path))}: {reason}" if path else f"{place}: {reason}")


def dotted(path: Path) -> str:
    """A path for people: ``services.web.ports[0]``."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{_shorten(part)}" if out else _shorten(part)
    return out


def read_document(text: bytes, file: str) -> Document:
    """The first document of ``text``. Raises ComposeError for anything that is no mapping with string keys."""
    if len(text) > MAX_BYTES:
        raise ComposeError(f"{file}: the file has {len(text)} bytes, more than the {MAX_BYTES} that are read")
    root = _Composer(text, file).compose()
    if root is None:
        raise ComposeError(f"{file}: the file is empty: a stack file is a mapping with a services key")
    constructor = _Constructor(file)
    data = constructor.construct(root, ())
    if not isinstance(data, dict):
        raise ComposeError(f"{file}:{root.line}: the top of a stack file must be a mapping with a services key")
    return Document(file=file, data=data, places=constructor.places)


# -- events to nodes ------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Node:
    line: int
    scalar: Any = None
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None
    is_merge_key: bool = False
    complete: bool = False


_CORE_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = ("str", "int", "float", "bool", "null", "timestamp", "binary", "merge")


class _Composer:
    """Events to a graph of nodes, in which an alias is a shared node."""

    def __init__(self, text: bytes, file: str) -> None:
        self._file = file
        self._anchors: dict[str, _Node] = {}
        self._nodes = 0
        self._parser = yaml.CSafeLoader(text)

    def compose(self) -> _Node | None:
        try:
            return self._compose_stream()
        except yaml.YAMLError as error:
            raise self._syntax_error(error) from error
        except (UnicodeError, ValueError, OverflowError) as error:
            raise ComposeError(f"{self._file}: not a YAML file: {_one_line(str(error))}") from error
        finally:
            self._parser.dispose()

    def _compose_stream(self) -> _Node | None:
        self._next()  # the start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        return self._node(self._next(), depth=0)

    def _next(self) -> Any:
        return self._parser.get_event()

    def _node(self, event: Any, depth: int) -> _Node:
        line = event.start_mark.line + 1
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise ComposeError(f"{self._file}:{line}: nested deeper than {MAX_DEPTH} levels")
        if self._nodes > MAX_NODES:
            raise ComposeError(f"{self._file}:{line}: more than {MAX_NODES} values")
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, line)
        node = _Node(line)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if isinstance(event, yaml.ScalarEvent):
            self._fill_scalar(node, event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq")
            node.items = []
            while not isinstance(event := self._next(), yaml.SequenceEndEvent):
                node.items.append(self._node(event, depth + 1))
        else:
            self._check_tag(event, "map")
            node.pairs = []
            while not isinstance(event := self._next(), yaml.MappingEndEvent):
                key = self._node(event, depth + 1)
                node.pairs.append((key, self._node(self._next(), depth + 1)))
        node.complete = True
        return node

    def _aliased(self, event: Any, line: int) -> _Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise ComposeError(f"{self._file}:{line}: unknown anchor {_shorten(event.anchor)!r}")
        if not node.complete:
            raise ComposeError(f"{self._file}:{line}: the value of anchor {_shorten(event.anchor)!r} contains itself")
        return node

    def _fill_scalar(self, node: _Node, event: Any) -> None:
        if event.tag is None or event.tag == "!":
            plain = event.implicit[0] and event.tag is None
            node.scalar = resolve(event.value) if plain else event.value
            node.is_merge_key = plain and event.value == "<<"
            return
        self._check_tag(event, *_SCALAR_TAGS)
        name = event.tag.removeprefix(_CORE_TAG)
        node.is_merge_key = name == "merge"
        node.scalar = event.value
        if name in ("int", "float", "bool", "null"):
            value = resolve(event.value)
            if name == "float" and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            kind = {"int": int, "float": float, "bool": bool, "null": type(None)}[name]
            if type(value) is not kind:
                raise ComposeError(f"{self._file}:{node.line}: {_shorten(event.value)!r} is no {name}, as its tag says")
            node.scalar = value

    def _check_tag(self, event: Any, *allowed: str) -> None:
        if event.tag not in (None, "!") and event.tag not in {_CORE_TAG + name for name in allowed}:
            line = event.start_mark.line + 1
            raise ComposeError(f"{self._file}:{line}: the YAML tag {_shorten(event.tag)!r} is not supported here")

    def _syntax_error(self, error: yaml.YAMLError) -> ComposeError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{self._file}:{mark.line + 1}" if mark is not None else self._file
        parts = [getattr(error, "context", None), getattr(error, "problem", None) or getattr(error, "reason", None)]
        reason = ", ".join(_one_line(str(part)) for part in parts if part) or _one_line(str(error))
        if "maximum nesting depth" in reason:
            # libyaml has a bound of its own since 0.2.6; it reads ahead of us.
            return ComposeError(f"{place}: nested deeper than {MAX_DEPTH} levels")
        return ComposeError(f"{place}: not valid YAML: {reason}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


# -- nodes to data --------------------------------------------------------------------------------------------------


class _Constructor:
    """Nodes to plain data; writes down where each value stands."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._count = 0
        self._characters = 0
        self.places: dict[Path, str] = {}

    def construct(self, node: _Node, path: Path) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise ComposeError(f"{self._file}:{node.line}: aliases expand to more than {MAX_NODES} values")
        if len(path) > MAX_DEPTH:
            raise ComposeError(f"{self._file}:{node.line}: nested deeper than {MAX_DEPTH} levels")
        self.places[path] = f"{self._file}:{node.line}"
        if node.pairs is not None:
            return self._mapping(node, path)
        if node.items is not None:
            return [self.construct(item, (*path, index)) for index, item in enumerate(node.items)]
        self._read(node)
        return node.scalar

    def _read(self, node: _Node) -> None:
        if isinstance(node.scalar, str):
            self._characters += len(node.scalar)
            if self._characters > MAX_CHARACTERS:
                raise ComposeError(f"{self._file}:{node.line}: aliases expand to more than {MAX_CHARACTERS} characters")

    def _mapping(self, node: _Node, path: Path) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in self._effective_pairs(node, depth=0).values():
            self._read(key)
            place = (*path, key.scalar)
            out[key.scalar] = self.construct(value, place)
            # The key's line is the better one: a block value starts a line below.
            self.places[place] = f"{self._file}:{key.line}"
        return out

    def _effective_pairs(self, node: _Node, depth: int) -> dict[str, tuple[_Node, _Node]]:
        """The pairs of a mapping with its ``<<`` merged in; what is written in the mapping itself wins."""
        assert node.pairs is not None
        if depth > MAX_DEPTH:
            raise ComposeError(f"{self._file}:{node.line}: nested deeper than {MAX_DEPTH} levels")
        own: dict[str, tuple[_Node, _Node]] = {}
        merged: dict[str, tuple[_Node, _Node]] = {}
        has_merge = False
        for key, value in node.pairs:
            if key.is_merge_key:
                if has_merge:
                    raise ComposeError(f"{self._file}:{key.line}: duplicate key '<<'")
                has_merge = True
                for source in self._merge_sources(value):
                    for name, pair in self._effective_pairs(source, depth + 1).items():
                        self._count += 1
                        merged.setdefault(name, pair)
                continue
            if not isinstance(key.scalar, str):
                shown = "a list or mapping" if key.items is not None or key.pairs is not None else repr(key.scalar)
                raise ComposeError(f"{self._file}:{key.line}: the key must be a string, not {shown}: put it in quotes")
            if key.scalar in own:
                first = own[key.scalar][0].line
                raise ComposeError(
                    f"{self._file}:{key.line}: duplicate key {_shorten(key.scalar)!r}, first given in line {first}"
                )
            own[key.scalar] = (key, value)
        if self._count > MAX_NODES:
            raise ComposeError(f"{self._file}:{node.line}: aliases expand to more than {MAX_NODES} values")
        return {**merged, **own}

    def _merge_sources(self, value: _Node) -> list[_Node]:
        sources = [value] if value.items is None else value.items
        for source in sources:
            if source.pairs is None:
                raise ComposeError(f"{self._file}:{source.line}: '<<' takes a mapping or a list of mappings")
        return sources


# -- scalars --------------------------------------------------------------------------------------------------------

_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf"))
_WORDS |= dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")) | dict.fromkeys(
    (".nan", ".NaN", ".NAN"), float("nan")
)

_INTEGERS = (
    (re.compile(r"[-+]?0b[01_]+"), 2),
    (re.compile(r"[-+]?0o?[0-7_]+"), 8),
    (re.compile(r"[-+]?0x[0-9a-fA-F_]+"), 16),
    (re.compile(r"[-+]?(?:0|[1-9][0-9_]*)"), 10),
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_MAX_DIGITS = 20
"""More digits than a 64-bit number has: such a number is read as a float."""


def resolve(text: str) -> Any:
    """The value of a plain (unquoted) scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    digits = text.replace("_", "")
    for pattern, base in _INTEGERS:
        if len(digits) <= _MAX_DIGITS + 3 and pattern.fullmatch(text) and digits.lstrip("+-").lower() not in _BARE:
            return int(digits.lower().replace("0o", "0", 1) if base == 8 else digits, base)
    if _FLOAT.fullmatch(digits):
        return float(digits)
    return text


_BARE = ("0b", "0o", "0x")
"""A prefix without a digit after it is a word, not a number."""
