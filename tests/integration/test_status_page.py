"""The status page of every node: on loopback, to read only, and for loopback names only."""

from __future__ import annotations

import signal

from hosts import Hosts, until


def test_every_node_has_a_page(hosts: Hosts) -> None:
    """Managers and workers say that they are well, and are, until a manager has lost its quorum."""
    manager, other, worker = hosts.cluster(2, 1)
    for host in (manager, other, worker):
        assert host.get("/healthz") == (200, {"status": "ok"})
        assert host.get("/readyz") == (200, {"status": "ready"})
        code, status = host.get("/status")
        assert (code, status["state"], status["problems"]) == (200, "active", [])
        assert status["node_id"] == manager.ids()[host.name]
    assert [node["hostname"] for node in manager.get("/status")[1]["nodes"]] == ["host-1", "host-2", "host-3"]
    assert worker.get("/status")[1]["nodes"] is None
    other.kill(signal.SIGKILL)
    until(lambda: manager.get("/readyz")[0] == 503, "the manager is not ready")
    assert manager.get("/healthz")[0] == 200
    assert "no quorum" in manager.get("/readyz")[1]["reason"]
    assert any("no quorum: 1 of 2 managers reachable" in p for p in manager.get("/status")[1]["problems"])
    assert worker.get("/readyz")[0] == 200


def test_what_the_page_refuses(hosts: Hosts) -> None:
    """Names that are not loopback (a web page's, by DNS rebinding), methods that write, and the API itself."""
    host = hosts.new()
    host.resume()
    assert host.get("/status", host="evil.example:2378")[0] == 403
    assert host.get("/status", host="192.0.2.1")[0] == 403
    assert host.get("/status", host="localhost:2378")[0] == 200
    assert host.get("/status", method="POST")[0] == 405
    assert host.get("/status", method="DELETE")[0] == 405
    assert host.get("/services")[0] == 404
    assert host.get("/swarm")[0] == 404
    assert host.get("/readyz") == (
        503,
        {"status": "not ready", "reason": "this node is inactive, not active in a swarm"},
    )
