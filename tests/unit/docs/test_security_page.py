"""The page on security says what is so: its table is the code's, and the tests that it names exist.

``SWARMPY_UPDATE_GOLDEN=1`` writes the generated table anew; review the difference.
"""

from __future__ import annotations

import ast
import asyncio
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


def functions_in(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    """A promise that nothing holds is none."""
    files = {file.name: file for file in (ROOT / "tests").rglob("test_*.py")}
    named = _NAMED.findall(page())
    assert len(named) > 50
    missing = [f"{file}::{name}" for file, name in named if file not in files or name not in functions_in(files[file])]
    assert missing == []


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


@pytest.mark.parametrize(("promise", "held_by"), list(promises()), ids=lambda text: text[:60])
def test_every_promise_names_what_holds_it(promise: str, held_by: str) -> None:
    """No row without a test."""
    assert _NAMED.search(held_by), promise


def test_names_are_written_as_they_are_looked_for() -> None:
    """Nothing that looks like a test is overlooked by this file."""
    assert set(re.findall(r"test_\w+\.py", page())) == {file for file, _ in _NAMED.findall(page())}
