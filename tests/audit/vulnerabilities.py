"""Known vulnerabilities of what swarmpy needs. See ``__main__``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OSV = "https://api.osv.dev/v1/query"
CONNECT_TIMEOUT_S = 10.0
AUDIT_TIMEOUT_S = 100.0


def required(name: str) -> dict[str, str]:
    """The versions of all packages that the installed ``name`` requires, by name, without itself."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(name)]
    while todo:
        wanted = todo.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if key in seen:
            continue
        seen.add(key)
        found[key[0]] = metadata.version(wanted.name)
        for needed in map(Requirement, metadata.requires(wanted.name) or ()):
            extras = wanted.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    del found[name]
    return found


def unreachable(url: str, timeout: float) -> str:
    """Why there is nobody at ``url``; "" when somebody answers, whatever it is."""
    try:
        with urllib.request.urlopen(url, timeout=timeout):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (urllib.error.URLError, OSError) as error:
        return str(getattr(error, "reason", error) or error)


def audit(packages: dict[str, str], url: str) -> int:
    """Have pip-audit ask ``url``; 0 when it knows of nothing. What it finds goes to standard output."""
    with tempfile.TemporaryDirectory() as directory:
        pinned = Path(directory) / "requirements.txt"
        pinned.write_text("".join(f"{name}=={version}\n" for name, version in sorted(packages.items())))
        command = [
            sys.executable, "-m", "pip_audit", "--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off",
            "--vulnerability-service", "osv", "--osv-url", url, "--requirement", str(pinned),
            "--cache-dir", directory,
        ]  # fmt: skip
        return subprocess.run(command, check=False, timeout=AUDIT_TIMEOUT_S).returncode


def main(url: str) -> int:
    """Look, and say what was seen."""
    packages = required("swarmpy")
    reason = unreachable(url, CONNECT_TIMEOUT_S)
    if reason:
        print(f"SKIPPED: known vulnerabilities of {len(packages)} packages: {url} cannot be reached ({reason})")
        return int(os.environ.get("SWARMPY_REQUIRE_AUDIT") == "1")
    print(f"asking {url} about {len(packages)} packages: {', '.join(sorted(packages))}", flush=True)
    try:
        return min(audit(packages, url), 1)
    except subprocess.TimeoutExpired:
        print(f"no answer within {AUDIT_TIMEOUT_S:g} s")
        return 1
