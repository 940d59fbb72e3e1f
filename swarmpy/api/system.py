"""``/_ping``, ``/version``, ``/info``, and the parts of Docker's API that this node has nothing of.

Lists of what swarmpy does not manage (networks, images, ...) are empty, which is the truth; asking for one of
them is 404, asking to make one is 501. A node answers for its engine in one thing only, what a registry says of an
image; for all else the engine has its own socket.
"""

from __future__ import annotations

import os
from typing import Any

from swarmpy.api.backend import ManagerBackend, NodeBackend
from swarmpy.api.callers import Access
from swarmpy.api.negotiation import API_VERSION, MIN_API_VERSION
from swarmpy.api.registry_auth import registry_auth
from swarmpy.api.request import ApiRequest, ApiResponse, json_response, message_response
from swarmpy.api.resources_json import generic_to_json
from swarmpy.api.router import READ_METHODS, Handler, Route, Scope
from swarmpy.api.swarm_json import cluster_info_to_json
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.model.grammar import is_image, shown
from swarmpy.model.images import registry_image_to_json
from swarmpy.model.networks import PREDEFINED
from swarmpy.model.objects import NodeDescription
from swarmpy.model.states import Role, TaskState

_NO_CACHE = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_NANO = 1_000_000_000
_COLLECTIONS = ("network", "volume", "container", "image")


class SystemApi:
    """Handlers about this node itself."""

    def __init__(self, node: NodeBackend) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The routes of this part."""
        routes = [
            _local("HEAD", "/_ping", self.ping),
            _local("GET", "/_ping", self.ping),
            _local("GET", "/version", self.version),
            _local("GET", "/info", self.info),
            _local("GET", "/networks", _empty_list),
            _local("GET", "/containers/json", _empty_list),
            _local("GET", "/images/json", _empty_list),
            _local("GET", "/volumes", _no_volumes),
            # It makes this node's engine connect to wherever the name says, so not for those who only look.
            Route("GET", "/distribution/{name...}/json", Scope.LOCAL, Access.ADMIN, self.distribution),
        ]
        routes += [_local("GET", f"/networks/{name}", _predefined(name)) for name in PREDEFINED]
        for word in _COLLECTIONS:
            routes += [
                _local("POST", f"/{word}s/create", _no_overlay if word == "network" else _not_supported),
                _local("GET", f"/{word}s/{{id...}}/json", _none_of(word)),
                _local("GET", f"/{word}s/{{id...}}", _none_of(word)),
                _local("DELETE", f"/{word}s/{{id...}}", _none_of(word)),
            ]
        routes.append(_local("GET", "/events", _not_supported))
        return routes

    async def ping(self, request: ApiRequest) -> ApiResponse:
        """``/_ping``: the first thing every client asks."""
        body = b"" if request.method == "HEAD" else b"OK"
        return ApiResponse(body=body, content_type="text/plain; charset=utf-8", headers=_NO_CACHE)

    async def version(self, _request: ApiRequest) -> ApiResponse:
        """``GET /version``."""
        architecture = self._node.description.platform.architecture
        common = {
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION,
            "Os": "linux",
            "Arch": _GO_ARCHITECTURES.get(architecture, architecture),
            "KernelVersion": os.uname().release,
            "GitCommit": "",
            "GoVersion": "",
            "BuildTime": "",
        }
        component = {"Name": "Engine", "Version": self._node.version, "Details": {**common, "Experimental": "false"}}
        return json_response(
            {
                "Platform": {"Name": "swarmpy"},
                "Components": [component],
                "Version": self._node.version,
                **common,
            }
        )

    async def info(self, _request: ApiRequest) -> ApiResponse:
        """``GET /info``: answered without asking anybody, so also when there is no quorum."""
        node = self._node
        description = node.description
        states = node.task_states()
        running = states.count(TaskState.RUNNING)
        return json_response(
            {
                "ID": node.node_id,
                "Name": description.hostname,
                "Containers": len(states),
                "ContainersRunning": running,
                "ContainersPaused": 0,
                "ContainersStopped": len(states) - running,
                "ServerVersion": node.version,
                "OSType": "linux",
                "OperatingSystem": "linux",
                "KernelVersion": os.uname().release,
                "Architecture": description.platform.architecture,
                "NCPU": description.resources.nano_cpus // _NANO,
                "MemTotal": description.resources.memory_bytes,
                "Driver": description.runtime,
                "Plugins": {
                    "Volume": _plugins(description, "volume"),
                    "Network": _plugins(description, "network"),
                    "Authorization": None,
                    "Log": _plugins(description, "log"),
                },
                "GenericResources": generic_to_json(description.resources.generic),
                "Labels": [f"{key}={value}" for key, value in sorted(description.engine_labels.items())],
                "Warnings": list(node.problems()) or None,
                "Swarm": _swarm_info(node),
            }
        )

    async def distribution(self, request: ApiRequest) -> ApiResponse:
        """``GET /distribution/{name}/json``: clients pin an image by what it says, and go on without when it fails.

        The caller's credentials for the registry go to the engine, and nowhere else.
        """
        image = request.params["name"]
        if not is_image(image):
            raise InvalidArgument(f"{shown(image)} is no image: write [registry/]name[:tag]")
        found = await self._node.find_image(image, registry_auth(request) or b"")
        return json_response(registry_image_to_json(found))


def _plugins(description: NodeDescription, kind: str) -> list[str]:
    return [plugin.name for plugin in description.plugins if plugin.type == kind]


def _swarm_info(node: NodeBackend) -> dict[str, Any]:
    remotes = [{"NodeID": manager.node_id, "Addr": manager.address} for manager in node.manager_addresses()]
    out: dict[str, Any] = {
        "NodeID": node.node_id,
        "NodeAddr": node.node_address,
        "LocalNodeState": node.local_state,
        "ControlAvailable": node.manager is not None,
        "Error": node.error,
        "RemoteManagers": remotes or None,
    }
    if node.manager is not None:
        out.update(_cluster_info(node.manager))
    return out


def _cluster_info(manager: ManagerBackend) -> dict[str, Any]:
    """What this manager knows. A manager that is only just joining may not know its cluster yet."""
    view = manager.store.view()
    nodes = view.nodes()
    out: dict[str, Any] = {
        "Nodes": len(nodes),
        "Managers": sum(node.spec.role is Role.MANAGER for node in nodes),
    }
    try:
        out["Cluster"] = cluster_info_to_json(view.cluster())
    except NotFound:
        return out
    return out


def _local(method: str, pattern: str, handler: Handler) -> Route:
    access = Access.VIEWER if method in READ_METHODS else Access.ADMIN
    return Route(method, pattern, Scope.LOCAL, access, handler)


async def _empty_list(_request: ApiRequest) -> ApiResponse:
    return json_response([])


async def _no_volumes(_request: ApiRequest) -> ApiResponse:
    return json_response({"Volumes": [], "Warnings": None})


async def _no_overlay(_request: ApiRequest) -> ApiResponse:
    """``docker stack deploy`` asks for one for every stack that does not say otherwise."""
    return message_response(
        501,
        "overlay networks are not available yet: services reach each other through published ports. A stack file for "
        "docker stack deploy needs networks: {default: {external: true, name: bridge}}; swarmpy stack deploy does not",
    )


async def _not_supported(request: ApiRequest) -> ApiResponse:
    return message_response(501, f"{request.method} {request.path} is not supported yet")


def _predefined(name: str) -> Handler:
    """A network that every node has. Its name is its id: what a client sends of it is a name to read in a spec."""

    async def shown_network(_request: ApiRequest) -> ApiResponse:
        network = {"Name": name, "Id": name, "Scope": "swarm", "Driver": name, "EnableIPv6": False, "Internal": False}
        rest = {"IPAM": {"Driver": "", "Options": None, "Config": []}, "Attachable": False, "Ingress": False}
        labels = {"com.docker.swarm.predefined": "true"}
        return json_response({**network, **rest, "Containers": None, "Options": None, "Labels": labels})

    return shown_network


def _none_of(word: str) -> Handler:
    async def not_found(request: ApiRequest) -> ApiResponse:
        return message_response(404, f"{word} {request.params['id']} not found")

    return not_found
