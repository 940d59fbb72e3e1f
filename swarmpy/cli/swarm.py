"""``swarm``: the commands about the cluster as a whole, from the modules that have them."""

from __future__ import annotations

from swarmpy.cli.backup import swarm_backup, swarm_restore
from swarmpy.cli.client_cert import client_cert
from swarmpy.cli.daemon import swarm
from swarmpy.cli.swarm_ca import swarm_ca
from swarmpy.cli.swarm_lock import swarm_unlock, swarm_unlock_key

swarm.add_command(swarm_backup)
swarm.add_command(swarm_restore)
swarm.add_command(swarm_ca)
swarm.add_command(swarm_unlock)
swarm.add_command(swarm_unlock_key)
swarm.add_command(client_cert)

__all__ = ["swarm"]
