"""Descriptors are shared out so that strangers never take the last ones."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from swarmpy.wire.descriptors import raise_limit, restore_limit, shares, shares_of
from swarmpy.wire.entrance import EntranceLimits


@pytest.mark.parametrize("limit", [256, 1024, 4096, 20_000, 65_536, 1 << 20])
def test_something_is_left_for_the_daemon_itself(limit: int) -> None:
    """With everything full that others can fill, an eighth is free for files, the engine and other managers."""
    share = shares_of(limit)
    taken = share.cluster_port + share.waiting + 2 * share.published_ports
    assert taken <= limit * 7 / 8
    assert share.cluster_port >= limit // 8 or share.cluster_port == 8192


def test_the_defaults_fit() -> None:
    """Where there are enough, the bounds are those that are documented."""
    assert shares_of(65_536).waiting == EntranceLimits().waiting


SCRIPT = """
import resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 2000))
from swarmpy.wire import descriptors
assert descriptors.raise_limit() == 2000
assert descriptors.shares().cluster_port == 500
code = "input(); import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
pipe = subprocess.PIPE
child = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
descriptors.restore_limit(child.pid)
print(child.communicate("go")[0])
"""


def test_this_process_has_what_it_may_and_its_children_what_it_had() -> None:
    """The daemon takes as many as the hard limit allows, and its tasks do not notice."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-3:] == ["(300, 2000)", "", ""]
    assert "few_file_descriptors" in done.stdout


def test_nothing_is_taken_away() -> None:
    """A limit that is higher already stays, and a child that is gone is no error."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_limit() >= min(before[0], 65_536)
        assert shares().published_ports > 0
        restore_limit(2**22 + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
