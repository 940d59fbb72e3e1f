"""Docker's JSON as rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from swarmpy.cli.listings import age, nodes_listing, services_listing, stacks_listing, tasks_listing

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def service(name: str, **spec: Any) -> dict[str, Any]:
    template = {"ContainerSpec": {"Image": "img:1@sha256:abc"}, **spec.pop("TaskTemplate", {})}
    return {
        "ID": f"id-of-{name}-and-more",
        "Spec": {"Name": name, "Mode": {"Replicated": {"Replicas": 3}}, "TaskTemplate": template, **spec},
        "ServiceStatus": {"RunningTasks": 2, "DesiredTasks": 3},
        "Endpoint": {"Ports": [{"PublishedPort": 80, "TargetPort": 8080, "Protocol": "tcp", "PublishMode": "ingress"}]},
    }


def test_services() -> None:
    """Services are sorted by name, with their replicas, image and ports."""
    listing = services_listing(
        [service("b", TaskTemplate={"Placement": {"MaxReplicas": 2}}), service("a", Mode={"Global": {}})]
    )
    assert listing.rows == (
        ("id-of-a-and-", "a", "global", "2/3", "img:1", "*:80->8080/tcp"),
        ("id-of-b-and-", "b", "replicated", "2/3 (max 2 per node)", "img:1", "*:80->8080/tcp"),
    )


def test_stacks() -> None:
    """Stacks are counted by the label of their services."""
    labels = {"com.docker.stack.namespace": "s"}
    listing = stacks_listing([service("s_a", Labels=labels), service("s_b", Labels=labels), service("c")])
    assert listing.rows == (("s", "2"),)


def task(id_: str, slot: int, state: str, desired: str, created: str, **status: Any) -> dict[str, Any]:
    return {
        "ID": id_,
        "ServiceID": "sid",
        "NodeID": "nid",
        "Slot": slot,
        "CreatedAt": created,
        "DesiredState": desired,
        "Spec": {"ContainerSpec": {"Image": "img:1"}},
        "Status": {"State": state, "Timestamp": "2026-01-02T03:04:00.123456789Z", **status},
    }


def test_tasks_are_listed_by_slot_with_their_history() -> None:
    """The task that counts comes first; earlier attempts of its slot are marked and carry their error."""
    tasks = [
        task("old", 1, "failed", "shutdown", "2026-01-02T03:00:00Z", Err="task: non-zero exit (1)"),
        task("other", 2, "pending", "running", "2026-01-02T03:02:00Z", Err="no suitable node"),
        task("new", 1, "running", "running", "2026-01-02T03:01:00Z"),
    ]
    rows = tasks_listing(tasks, services={"sid": "web"}, nodes={"nid": "host"}, now=NOW).rows
    assert rows == (
        ("new", "web.1", "img:1", "host", "Running", "Running 4 seconds ago", "", ""),
        (
            "old", r" \_ web.1", "img:1", "host", "Shutdown", "Failed 4 seconds ago", '"task: non-zero exit (1)"', "",
        ),
        ("other", "web.2", "img:1", "host", "Running", "Pending 4 seconds ago", '"no suitable node"', ""),
    )  # fmt: skip


def test_a_task_of_a_removed_service_is_shown_by_id() -> None:
    """Names that are gone are replaced by ids; a global task is named by its node."""
    rows = tasks_listing([task("t", 0, "running", "remove", "")], services={}, nodes={}, now=NOW).rows
    assert rows[0][1] == "sid.nid"


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        ("2026-01-02T03:04:05Z", "0 seconds ago"),
        ("2026-01-02T03:04:04.5Z", "0 seconds ago"),
        ("2026-01-02T03:03:05Z", "1 minute ago"),
        ("2026-01-02T01:04:05Z", "2 hours ago"),
        ("2025-12-30T03:04:05Z", "3 days ago"),
        ("2025-01-02T03:04:05Z", "52 weeks ago"),
        ("2027-01-02T03:04:05Z", "0 seconds ago"),
        ("0001-01-01T00:00:00Z", ""),
        ("", ""),
        ("soon", ""),
    ],
)
def test_ages(timestamp: str, text: str) -> None:
    """Times are told as ages; a clock that is ahead does not make them negative."""
    assert age(timestamp, NOW) == text


def test_nodes() -> None:
    """Nodes are sorted by hostname; the one asked and the leader are marked."""
    nodes = [
        {
            "ID": "w",
            "Description": {"Hostname": "b", "Engine": {"EngineVersion": "20.10"}},
            "Spec": {"Availability": "drain"},
            "Status": {"State": "down"},
        },
        {
            "ID": "m",
            "Description": {"Hostname": "a"},
            "Spec": {"Availability": "active"},
            "Status": {"State": "ready"},
            "ManagerStatus": {"Leader": True, "Reachability": "reachable"},
        },
    ]
    assert nodes_listing(nodes, own_id="m").rows == (
        ("m *", "a", "Ready", "Active", "Leader", ""),
        ("w", "b", "Down", "Drain", "", "20.10"),
    )
