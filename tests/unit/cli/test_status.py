"""``status --raft`` as text."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.cli.render import plain_table
from swarmpy.cli.status import log_summary, members_listing, nodes_listing

LEADER = {
    "raft_id": 1,
    "node_id": "n1",
    "hostname": "alpha",
    "address": "10.0.0.1:2377",
    "role": "voter",
    "leader": True,
    "state": None,
    "match": 1200,
    "lag": 0,
    "last_contact_s": None,
    "reachable": True,
}
SLOW = {**LEADER, "node_id": "n2", "hostname": "", "leader": False, "state": "snapshot", "match": 12, "lag": 1188}
GONE = {**LEADER, "hostname": "gamma", "leader": False, "role": "learner", "state": "probe", "match": None, "lag": None}
REPORT: dict[str, Any] = {
    "log": {"entries": 200, "bytes": 4096},
    "snapshot": {"index": 1000, "age_s": 3.25},
    "members": [LEADER, {**SLOW, "last_contact_s": 0.1}, {**GONE, "last_contact_s": 400.0, "reachable": False}],
    "schema": {"written": 3, "read": 3},
    "note": "",
}


def test_members() -> None:
    """The leader, who is fed how, and who is not there."""
    assert plain_table(members_listing(REPORT)).splitlines() == [
        "MANAGER   ROLE      STATE                MATCH   LAG    LAST CONTACT   ADDRESS",
        "alpha     voter     leader               1200    0      -              10.0.0.1:2377",
        "n2        voter     snapshot             12      1188   0.1 s ago      10.0.0.1:2377",
        "gamma     learner   probe, unreachable   -       -      7 min ago      10.0.0.1:2377",
    ]


@pytest.mark.parametrize(
    ("age_s", "words"),
    [
        (None, ""),
        (3.25, ", taken 3.2 s ago"),
        (119, ", taken 119.0 s ago"),
        (7300, ", taken 2 h ago"),
        (864000, ", taken 10 d ago"),
    ],
)
def test_log(age_s: float | None, words: str) -> None:
    """How much log there is since the snapshot, and how old that is, if it is known."""
    report = {**REPORT, "snapshot": {"index": 1000, "age_s": age_s}}
    assert log_summary(report) == [
        f"log      200 entries, 4096 bytes since the snapshot at 1000{words}",
        "schema   version 3 is written",
    ]


def test_schema() -> None:
    """While managers of an older version are there, it says what will be written when they are upgraded."""
    report = {**REPORT, "schema": {"written": 2, "read": 3}}
    assert log_summary(report)[1] == "schema   version 2 is written, version 3 when all managers read it"


def test_without_the_leader() -> None:
    """Why the table knows less is said above it."""
    assert log_summary({**REPORT, "note": "the swarm has no leader"})[2] == (
        "members  as this manager knows them; the leader was not heard: the swarm has no leader"
    )


def test_what_a_manager_is_to_the_others() -> None:
    """The leader, one that answers, one that does not, one that nobody can tell of; a worker is none of these."""
    manager = {"role": "manager", "leader": False}
    nodes = [
        {**manager, "leader": True, "reachable": True},
        {**manager, "reachable": True},
        {**manager, "reachable": False},
        {**manager, "reachable": None},
        {"role": "worker", "leader": False, "reachable": None},
    ]
    standing = [row[4] for row in nodes_listing({"nodes": nodes}).rows]
    assert standing == ["Leader", "Reachable", "Unreachable", "Unknown", ""]
