"""A node that starts at another address than the one it had."""

from __future__ import annotations

import attrs
import structlog

from swarmpy.errors import InvalidArgument
from swarmpy.node import addresses
from swarmpy.node.config import NodeConfig
from swarmpy.node.datadir import DataDir, NodeState

log = structlog.get_logger(__name__)


def where_now(data: DataDir, config: NodeConfig, state: NodeState) -> NodeState:
    """``state`` with the addresses of today, durable in ``data`` if they are others than before.

    Blocks. Raises InvalidArgument for addresses in ``config`` that cannot be, StorageError.
    """
    was = state.listen_address, state.advertise_address
    manager = next(iter((*config.manager_addresses, *(m.address for m in state.managers))), "")
    try:
        now, chosen = addresses.move(
            was, config.listen_address, config.advertise_address, manager, was_chosen=state.address_chosen
        )
    except InvalidArgument as error:
        if config.listen_address or config.advertise_address:
            raise
        # No network yet, perhaps. Its tasks and its part in the cluster go on as far as they can.
        log.warning("address_gone", address=state.advertise_address, reason=str(error))
        return state
    listen, advertise = now
    moved = attrs.evolve(state, listen_address=listen, advertise_address=advertise, address_chosen=chosen)
    if moved != state:
        data.save(moved)
    if now != was:
        log.info("node_moved", old=state.advertise_address, new=advertise, listen=listen)
    return moved


def manager_hints(config: NodeConfig) -> tuple[str, ...]:
    """``host:port`` of the managers that the operator named. Raises InvalidArgument."""
    return tuple(addresses.join(*addresses.parse(a, what="--manager-addr")) for a in config.manager_addresses)
