"""What a manager asks of the rest of its node, and tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from swarmpy.manager.trust import Orders


@attrs.frozen(kw_only=True)
class RestOfNode:
    """The functions are called on the manager's loop, but for ``snapshot_time``, and return at once."""

    manager_hints: tuple[str, ...] = ()
    """``host:port`` of managers that an operator gave, because the others have moved."""
    known_managers: Callable[[], Iterable[str]] = tuple
    """All addresses of managers that this node has heard of."""
    on_superseded: Callable[[int, str], None] = lambda *_: None
    """This manager's incarnation of the cluster is past: the later one, and where it is managed."""
    on_roots: Callable[[tuple[bytes, ...]], None] = lambda _: None
    """All root CAs (PEM) whose certificates this manager judges, for TLS to let them through."""
    on_orders: Callable[[Orders], None] = lambda _: None
    """What this manager's own node is to trust and to show."""
    snapshot_time: Callable[[], int] = lambda: 0
    """When the newest snapshot was written, nanoseconds since the Unix epoch; 0: not known. Called in a thread."""
