"""The page on security says what is so: its table is the code's, and the tests that it names exist.

``SWARMPY_UPDATE_GOLDEN=1`` writes the generated table anew; review the difference.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import os
import random
import re
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from swarmpy.api.backend import InitRequest
from swarmpy.cli.local_cluster import CLUSTER_PORT, reserve_prefix
from swarmpy.node.clock import SystemClock
from swarmpy.node.config import NodeConfig
from swarmpy.node.daemon import Node
from swarmpy.wire.router import Router

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "security.md"
_NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
_BLOCK = re.compile(r"(<!-- generated: (?P<name>[a-z ]+) -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
_HOLDERS = ("held by", "test")
"""Headings of a column that names tests."""


def page() -> str:
    return PAGE.read_text()


@asynccontextmanager
async def manager(directory: Path) -> object:
    """The daemon of a cluster of one."""
    prefix, reservation = reserve_prefix(1)
    config = NodeConfig(data_dir=directory, hostname="node-1", runtime="process", status_address="")
    node = Node(config, SystemClock(), random.SystemRandom())
    stop, started = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(node.run(stop, started))
    try:
        await started.wait()
        address = f"{prefix}.1:{CLUSTER_PORT}"
        await node.init(InitRequest(listen_addr=address, advertise_addr=address))
        yield node
    finally:
        stop.set()
        await running
        reservation.close()


def table(*rows: tuple[str, ...]) -> str:
    heading, *rest = rows
    lines = [heading, tuple("---" for _ in heading), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cluster_port(router: Router) -> str:
    rows = []
    for route in router.table():
        who = "anybody" if route.allow is None else ", ".join(sorted(f"{role.value}s" for role in route.allow))
        rows.append((f"`{route.method}`", route.kind.value, who))
    return table(("method", "kind", "who"), *rows)


async def test_the_table_is_the_codes(tmp_path: Path) -> None:
    """Every method of the cluster port is on the page, with who may use it."""
    async with manager(tmp_path / "node") as node:
        member = node._member
        assert member is not None
        generated = {"cluster port": cluster_port(member.manager._router)}
    text = page()
    wanted = _BLOCK.sub(lambda match: f"{match[1]}{generated[match['name']]}{match[3]}", text)
    assert set(generated) == {match["name"] for match in _BLOCK.finditer(text)}
    if os.environ.get("SWARMPY_UPDATE_GOLDEN") == "1":
        PAGE.write_text(wanted)
    assert page() == wanted


Function = ast.FunctionDef | ast.AsyncFunctionDef
RUN_BY_CI = ("unit", "simulation", "integration", "engine")
"""Directories below ``tests``, each with an environment of its own in ``tox.ini``."""


def collected_in(text: str) -> dict[str, Function]:
    """What pytest collects of a file: functions of the module and methods of its classes, none within another one."""
    found: dict[str, Function] = {}
    for node in ast.parse(text).body:
        is_class = isinstance(node, ast.ClassDef) and node.name.startswith("Test")
        for each in node.body if is_class and isinstance(node, ast.ClassDef) else [node]:
            if isinstance(each, Function) and each.name.startswith("test_"):
                found[each.name] = each
    return found


def is_always_left_out(test: Function) -> bool:
    """True for one that is marked to be skipped whatever the machine, or to fail."""
    marks = [ast.unparse(mark) for mark in test.decorator_list]
    return any(re.fullmatch(r"pytest\.mark\.(skip|xfail)(\(.*\))?", mark, re.DOTALL) for mark in marks)


def run_by_ci() -> dict[str, list[Path]]:
    """Files of tests by their name, which several may have."""
    found: dict[str, list[Path]] = {}
    for directory in RUN_BY_CI:
        for path in (ROOT / "tests" / directory).rglob("test_*.py"):
            found.setdefault(path.name, []).append(path)
    return found


@functools.cache
def collected(path: Path) -> dict[str, Function]:
    """Those of a file."""
    return collected_in(path.read_text())


def what_is_wrong_with(file: str, name: str, files: dict[str, list[Path]]) -> str:
    """Why ``file::name`` holds nothing; "" when it is a test that is run."""
    found = [test for path in files.get(file, ()) if (test := collected(path).get(name)) is not None]
    if len(found) != 1:
        return f"{file}::{name}: there are {len(found)} of it"
    if is_always_left_out(found[0]):
        return f"{file}::{name} is never run"
    return "" if any(isinstance(node, ast.Assert | ast.Call) for node in ast.walk(found[0])) else f"{name} is empty"


def test_every_test_that_is_named_is_run() -> None:
    """A promise that nothing holds is none."""
    named = set(_NAMED.findall(page()))
    assert len(named) > 150
    files = run_by_ci()
    assert [wrong for file, name in sorted(named) if (wrong := what_is_wrong_with(file, name, files))] == []


def test_the_directories_are_those_of_ci() -> None:
    """A test that nobody runs holds nothing either."""
    environments = (ROOT / "tox.ini").read_text()
    for directory in RUN_BY_CI:
        assert re.search(rf"^commands =\s[^\[]*pytest [^\n]*tests/{directory} ", environments, re.MULTILINE), directory


@pytest.mark.parametrize(
    ("text", "collected"),
    [
        ("def test_a(): pass", True),
        ("async def test_a(): pass", True),
        ("class TestX:\n    def test_a(self): pass", True),
        ("class X:\n    def test_a(self): pass", False),
        ("def test_b():\n    def test_a(): pass", False),
        ("if False:\n    def test_a(): pass", False),
        ("# def test_a(): pass", False),
    ],
)
def test_what_is_collected(text: str, collected: bool) -> None:
    """As pytest does."""
    assert ("test_a" in collected_in(text)) is collected


@pytest.mark.parametrize(
    ("mark", "left_out"),
    [
        ("pytest.mark.skip", True),
        ('pytest.mark.skip(reason="x")', True),
        ("pytest.mark.xfail", True),
        ('pytest.mark.skipif(os.geteuid() != 0, reason="x")', False),
        ("settings(deadline=None)", False),
    ],
)
def test_what_is_left_out(mark: str, left_out: bool) -> None:
    """Where the machine cannot do it, it may be skipped; elsewhere not."""
    assert is_always_left_out(collected_in(f"@{mark}\ndef test_a(): pass")["test_a"]) is left_out


def promises() -> Iterator[tuple[str, str]]:
    """Each row of a table that names tests: its first cell, and its last."""
    in_table = False
    for line in page().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            in_table = False
        elif cells[-1] in _HOLDERS:
            in_table = True
        elif in_table and not set(cells[0]) <= {"-"}:
            yield cells[0], cells[-1]


def test_every_table_of_promises_names_tests() -> None:
    """One without that column would be looked at by nobody."""
    headings = [line for line in page().splitlines() if re.match(r"\|.*\| cannot \|", line)]
    rows = [line for line in page().splitlines() if re.match(r"\| [STRIDE]( [STRIDE])* \|", line)]
    assert len(rows) == len(list(promises()))
    assert headings
    assert {heading.strip("| ").split("|")[-1].strip() for heading in headings} == {"held by"}


@pytest.mark.parametrize(("promise", "held_by"), list(promises()), ids=lambda text: text[:60])
def test_every_promise_names_what_holds_it(promise: str, held_by: str) -> None:
    """No row without a test."""
    assert _NAMED.search(held_by), promise


def test_names_are_written_as_they_are_looked_for() -> None:
    """Nothing that looks like a test is overlooked by this file."""
    assert set(re.findall(r"test_\w+\.py", page())) == {file for file, _ in _NAMED.findall(page())}
