"""What an agent asks of the rest of its node, and tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from swarmpy.model.states import Role


@attrs.frozen(kw_only=True)
class RestOfNode:
    """Each of these is called on the agent's loop, and returns at once."""

    seeds: Callable[[], Iterable[str]]
    """The managers (``host:port``) known from elsewhere, whenever they are looked for."""
    on_role_change: Callable[[Role], None]
    """A manager says that this node should have another role."""
    on_later_incarnation: Callable[[int, str], None] = lambda *_: None
    """The cluster of a leader, at an address, is of a later incarnation than all before."""
    on_revoked: Callable[[], None] = lambda: None
    """A manager refuses this node for its certificate."""
    roots: Callable[[], tuple[str, ...] | None] = lambda: None
    """The digests of the root CAs that this node trusts; None: not known."""
    on_roots: Callable[[tuple[bytes, ...], str], None] = lambda *_: None
    """A manager says which root CAs (PEM) this node is to trust, and of which (digest) its certificate is to be."""
    problems: Callable[[], tuple[str, ...]] = tuple
    """What does not work there, told with the agent's own; one line each."""
