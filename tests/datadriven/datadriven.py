"""Text files of commands and what they print, after the ``testdata`` of cockroachdb/datadriven and etcd's raft.

A file is a row of steps, with comments (``#``) and blank lines between them::

    command positional key=value list=(a, b)
    ----
    what it prints,
    up to a blank line or the end of the file

Rewriting a file keeps its comments and replaces what is printed; the difference is then read by a person.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

_WORD = re.compile(r"(?:(?P<key>[a-z_]+)=)?(?:\((?P<list>[^)]*)\)|(?P<word>\S+))(?:\s+|$)")


class TranscriptError(Exception):
    """A file that is not a transcript. The message names the line."""


@attrs.frozen(kw_only=True)
class Command:
    """One command: its name, what stands after it, and ``key=value`` pairs (always as tuples)."""

    name: str
    args: tuple[str, ...] = ()
    options: dict[str, tuple[str, ...]] = attrs.field(factory=dict)

    @classmethod
    def parse(cls, line: str) -> Command:
        """The command in ``line``. Raises TranscriptError."""
        name, _, rest = line.strip().partition(" ")
        args: list[str] = []
        options: dict[str, tuple[str, ...]] = {}
        place, rest = 0, rest.strip()
        while place < len(rest):
            found = _WORD.match(rest, place)
            if found is None:
                raise TranscriptError(f"cannot read {rest[place:]!r} in {line!r}")
            listed = found["list"]
            values = (found["word"],) if listed is None else tuple(listed.replace(",", " ").split())
            if found["key"]:
                options[found["key"]] = values
            else:
                args.extend(values)
            place = found.end()
        return cls(name=name, args=tuple(args), options=options)


def play(text: str, run: Callable[[Command], str]) -> str:
    """``text`` with what ``run`` prints in place of what stands there. Raises TranscriptError."""
    out: list[str] = []
    lines = text.splitlines()
    place = 0
    while place < len(lines):
        line = lines[place]
        place += 1
        out.append(line)
        if not line.strip() or line.startswith("#"):
            continue
        if place == len(lines) or lines[place] != "----":
            raise TranscriptError(f"line {place}: no ---- after {line!r}")
        out += ["----", *run(Command.parse(line)).splitlines()]
        while place < len(lines) and lines[place].strip():
            place += 1
    return "\n".join(out) + "\n"


def check_recorded(path: Path, run: Callable[[Command], str], variable: str) -> None:
    """Fail where the transcript at ``path`` plays otherwise than it is recorded.

    With ``rewrite`` in the environment's ``variable`` it is recorded anew instead.
    """
    recorded = path.read_text()
    now = play(recorded, run)
    if os.environ.get(variable) == "rewrite":
        path.write_text(now)
        return
    found = difference(path.name, recorded, now)
    assert not found, f"\n{found}\nIf this is meant: {variable}=rewrite pytest -k {path.stem}"


def difference(name: str, recorded: str, now: str) -> str:
    """A unified diff from what is recorded to what comes out now; empty when they are the same."""
    return "".join(_diff(name, recorded.splitlines(keepends=True), now.splitlines(keepends=True)))


def _diff(name: str, recorded: Sequence[str], now: Sequence[str]) -> list[str]:
    return list(difflib.unified_diff(recorded, now, f"{name} (recorded)", f"{name} (now)", n=6))
