"""Which runtime a node uses: the engine of its machine where one answers, plain processes otherwise."""

from __future__ import annotations

from pathlib import Path

from swarmpy.errors import InvalidArgument, RuntimeUnavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.specs import GenericResource
from swarmpy.ports import Runtime
from swarmpy.runtime.process import ProcessRuntime

KINDS = ("auto", "docker", "process")

PROBE_TIMEOUT = 3.0
"""Seconds for an engine to answer."""


async def choose_runtime(
    kind: str,
    *,
    node_id: NodeId,
    node_address: str,
    hostname: str,
    directory: Path,
    url: str | None = None,
    may_be_away: bool = False,
    generic: tuple[GenericResource, ...] = (),
) -> tuple[Runtime, str]:
    """The runtime of a kind, not yet opened, and one line on why it is this one.

    ``directory`` is the process runtime's own; ``url`` the engine's address, by default ``DOCKER_HOST`` or the usual
    socket; ``generic`` what the node has of generic resources. Raises RuntimeUnavailable when an engine is asked for
    and none answers, unless it ``may_be_away`` for now, InvalidArgument for another kind or an address that is none.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"runtime {kind!r} is unknown: choose one of {', '.join(KINDS)}")
    reason = "asked for"
    if kind != "process":
        # Imported here: a node that only runs processes does without the Docker client.
        from swarmpy.runtime.docker import DockerRuntime
        from swarmpy.runtime.docker_engine import probe_engine

        docker = DockerRuntime(node_id=node_id, node_address=node_address, hostname=hostname, url=url, generic=generic)
        try:
            address, version = await probe_engine(url, PROBE_TIMEOUT)
            return docker, f"Docker Engine {version} answers at {address}"
        except RuntimeUnavailable as error:
            reason = str(error)
            if kind == "docker" and may_be_away:
                return docker, f"asked for, but {reason}"
            if kind == "docker":
                raise RuntimeUnavailable(
                    f"{reason}: it must run, and this user must be allowed to use it; or use --runtime process"
                ) from error
    process = ProcessRuntime(
        node_id=node_id, node_address=node_address, hostname=hostname, directory=directory, generic=generic
    )
    return process, reason
