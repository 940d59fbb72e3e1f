"""The doors of a node: the group's socket, and where one may be."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from swarmpy.errors import FailedPrecondition
from swarmpy.node import doors


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ({"swarmpy": 901, "docker": 902}, ("swarmpy", 901)),
        ({"docker": 902}, ("docker", 902)),
        ({}, None),
    ],
)
def test_the_group_is_the_first_that_exists(
    monkeypatch: pytest.MonkeyPatch, groups: dict[str, int], found: tuple[str, int] | None
) -> None:
    """swarmpy's own before docker's; without any the socket is its owner's."""

    def getgrnam(name: str) -> Any:
        return grp.struct_group((name, "x", groups[name], []))

    monkeypatch.setattr(doors.grp, "getgrnam", getgrnam)
    assert doors.socket_group() == found


def test_a_directory_that_others_can_change_is_refused(tmp_path: Path) -> None:
    """They could put a socket of their own there; one that is not there is made, for all to pass through."""
    socket = tmp_path / "run" / "swarmpy.sock"
    before = os.umask(0o077)
    try:
        doors.make_room(socket)
    finally:
        os.umask(before)
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o755
    doors.make_room(socket)
    for mode in (0o777, 0o775, 0o1777):
        socket.parent.chmod(mode)
        with pytest.raises(FailedPrecondition, match="can be changed by others"):
            doors.make_room(socket)
    with pytest.raises(FailedPrecondition, match="No such file or directory"):
        doors.make_room(tmp_path / "no" / "such" / "s")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Its owner can do with it as he likes."""
    (tmp_path / "theirs").mkdir(mode=0o755)
    os.chown(tmp_path / "theirs", 65534, -1)
    with pytest.raises(FailedPrecondition, match="can be changed by others"):
        doors.make_room(tmp_path / "theirs" / "s")
