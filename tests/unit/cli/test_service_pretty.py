"""A service as text for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from swarmpy.cli.render import rows_text
from swarmpy.cli.service_pretty import duration, pretty, size

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)

GPU = {"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}
SERVICE: dict[str, Any] = {
    "ID": "0hpg4pu85i88rdbwqhhed2qrd",
    "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": 2},
    "Spec": {
        "Name": "web",
        "Labels": {"tier": "front", "empty": ""},
        "Mode": {"Replicated": {"Replicas": 2}},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox:1",
                "Args": ["sleep", "1"],
                "Env": ["A=1", "B=2"],
                "Mounts": [{"Type": "bind", "Source": "/s", "Target": "/t", "ReadOnly": True}],
                "Secrets": [{"SecretName": "key", "File": {"Name": "k", "Mode": 0o400}}],
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 2},
                "StopGracePeriod": 1_500_000_000,
            },
            "Resources": {
                "Limits": {"NanoCPUs": 1_500_000_000, "MemoryBytes": 64 * 2**20},
                "Reservations": {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}]},
            },
            "Placement": {"Constraints": ["node.role==worker"], "MaxReplicas": 1},
            "RestartPolicy": {"Condition": "on-failure", "Delay": 5 * 10**9, "MaxAttempts": 3},
        },
        "UpdateConfig": {"Parallelism": 0, "Order": "start-first", "ProgressDeadline": 0},
        "EndpointSpec": {"Mode": "vip"},
    },
    "Endpoint": {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}, {"TargetPort": 1, "PublishMode": "host"}]},
    "UpdateStatus": {"State": "rollback_paused", "StartedAt": "2026-01-01T12:00:00Z", "Message": "oh\x1b[31m\nno"},
}


def test_what_was_given_is_shown_and_nothing_else() -> None:
    """One line for each thing, under the word for it; nothing that a terminal obeys."""
    assert pretty(SERVICE, NOW).splitlines() == [
        "ID:            0hpg4pu85i88rdbwqhhed2qrd",
        "Name:          web",
        "Labels:        tier=front",
        "               empty",
        "Mode:          replicated",
        "Replicas:      1/2 (max 1 per node)",
        "Update status: rollback paused 30 seconds ago",
        "               oh?[31m no",
        "Image:         busybox:1",
        "Args:          sleep 1",
        "Env:           A=1",
        "               B=2",
        "Mounts:        bind /s on /t (read-only)",
        "Secrets:       key as k (mode 0400)",
        "Health check:  true, every 5s, 2 retries",
        "Stop:          killed after 1500ms",
        "Limits:        1.5 cores, 64 MiB",
        "Reservations:  2 gpu",
        "Placement:     node.role==worker",
        "               at most 1 on a node",
        "Restart:       on-failure, after 5s, at most 3 times",
        "Update:        all at once, start-first, no progress deadline",
        "Ports:         8080 -> 80/tcp on every node",
        "               a free port -> 1/tcp on the task's node",
    ]


def test_the_least_that_a_service_can_be_is_shown() -> None:
    """Nothing is taken for granted of what came."""
    assert pretty({"Spec": {"Name": "w"}}, NOW).splitlines() == ["Name:     w", "Mode:     replicated", "Replicas: 0/0"]
    assert rows_text([]) == ""


def test_amounts_have_the_largest_unit_that_says_all() -> None:
    """Nothing is rounded."""
    assert [duration(n) for n in (0, 1, 90 * 10**9, 3600 * 10**9, 1500)] == ["0s", "1ns", "90s", "1h", "1500ns"]
    assert [size(n) for n in (1023, 2**20, 2**20 + 1)] == ["1023 bytes", "1 MiB", "1048577 bytes"]
