"""The audit says what is known, and leaves the question open only when nobody can be asked."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from vulnerabilities import required, unreachable

ROOT = Path(__file__).parents[2]
has_pip_audit = importlib.util.find_spec("pip_audit") is not None
needs_pip_audit = pytest.mark.skipif(
    not has_pip_audit and os.environ.get("TOX_ENV_NAME") != "security", reason="pip-audit is not installed"
)


@contextmanager
def database(status: int, known: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A database on loopback that answers with ``status`` and the vulnerabilities of the packages in ``known``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
            self.answer({"vulns": [known[asked]]} if asked in known else {})

        def answer(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(url: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.audit", "--osv-url", url]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=100, cwd=ROOT, env={**os.environ, **env}
    )


def test_what_is_required() -> None:
    """The packages that the project names, and those that these need; nothing of the tests."""
    packages = required("swarmpy")
    assert {"aiohttp", "cryptography", "cffi", "multidict", "pyyaml", "msgpack"} <= set(packages)
    assert not {"pytest", "hypothesis", "swarmpy"} & set(packages)


def test_who_answers_can_be_asked() -> None:
    """An error is an answer; no connection, no name and silence are none."""
    for status in (200, 404, 503):
        with database(status, {}) as url:
            assert unreachable(url, 5) == ""
    assert "refused" in unreachable("http://127.0.0.1:1/", 5)
    assert unreachable("https://swarmpy.invalid/", 5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "timed out" in unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}/", 0.5)


def test_nobody_to_ask() -> None:
    """The one reason to go on without an answer; it is told, and can be forbidden."""
    done = run("http://127.0.0.1:1/v1/query")
    assert done.returncode == 0
    assert done.stdout.startswith("SKIPPED: known vulnerabilities of ")
    assert "http://127.0.0.1:1/v1/query cannot be reached" in done.stdout
    assert run("http://127.0.0.1:1/v1/query", SWARMPY_REQUIRE_AUDIT="1").returncode == 1


@needs_pip_audit
def test_nothing_is_known() -> None:
    """Every package was asked about."""
    with database(200, {}) as url:
        done = run(url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No known vulnerabilities found" in done.stderr


@needs_pip_audit
def test_a_vulnerability_is_known() -> None:
    """It is named with its package, and the run fails."""
    affected = {"package": {"name": "msgpack", "ecosystem": "PyPI"}, "ranges": []}
    with database(200, {"msgpack": {"id": "PYSEC-0000-1", "summary": "bad", "affected": [affected]}}) as url:
        done = run(url)
    assert done.returncode == 1
    assert "PYSEC-0000-1" in done.stdout
    assert "msgpack" in done.stdout


@needs_pip_audit
def test_an_error_is_no_answer() -> None:
    """A database that is there and does not work is a failure, not a reason to skip."""
    with database(500, {}) as url:
        done = run(url)
    assert done.returncode == 1
    assert "SKIPPED" not in done.stdout
