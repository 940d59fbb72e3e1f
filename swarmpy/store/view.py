"""What the cluster looks like at one moment: typed reads over one or more layers of tables. Never writes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from operator import attrgetter

from swarmpy.errors import NotFound
from swarmpy.model.objects import Cluster, Config, Kind, Node, Secret, Service, StoreObject, Task
from swarmpy.store.tables import (
    CONFIG_NAME,
    SECRET_NAME,
    SERVICE_NAME,
    SERVICE_PORT,
    SERVICE_REFERENCE,
    TASK_NODE,
    TASK_REFERENCE,
    TASK_SERVICE,
    TASK_WAITING,
    Layer,
    Stack,
)

_BY_ID = attrgetter("id")
_BY_NUMBER = attrgetter("number")


class View:
    """A consistent read of the store, valid until the next ``await``.

    A method for one object gives it or None, a method for many gives a tuple in a deterministic order: that of
    creation, except where a docstring says otherwise.
    """

    def __init__(self, layers: tuple[Layer, ...], version: int) -> None:
        self._version = version
        self._layers = layers

    # Made when they are looked at: most reads are of one kind or two.

    @cached_property
    def _clusters(self) -> Stack[Cluster]:
        return Stack([layer.clusters for layer in self._layers])

    @cached_property
    def _nodes(self) -> Stack[Node]:
        return Stack([layer.nodes for layer in self._layers])

    @cached_property
    def _services(self) -> Stack[Service]:
        return Stack([layer.services for layer in self._layers])

    @cached_property
    def _tasks(self) -> Stack[Task]:
        return Stack([layer.tasks for layer in self._layers])

    @cached_property
    def _secrets(self) -> Stack[Secret]:
        return Stack([layer.secrets for layer in self._layers])

    @cached_property
    def _configs(self) -> Stack[Config]:
        return Stack([layer.configs for layer in self._layers])

    @property
    def version(self) -> int:
        """The index of the last entry that is in the committed state."""
        return self._version

    def cluster_or_none(self) -> Cluster | None:
        """The cluster; None before it is initialised."""
        for cluster in self._clusters.all():
            return cluster
        return None

    @property
    def schema(self) -> int:
        """The schema version that the cluster writes, 0 before it is initialised: asked with every task written."""
        for layer in self._layers:
            for cluster in layer.clusters.objects.values():
                if cluster is not None:
                    return cluster.schema
        return 0

    def cluster(self) -> Cluster:
        """The cluster. Raises NotFound before it is initialised."""
        cluster = self.cluster_or_none()
        if cluster is not None:
            return cluster
        raise NotFound("the cluster is not initialised yet: no cluster object in the store")

    def node(self, node_id: str) -> Node | None:
        """The node of that id."""
        return self._nodes.get(node_id)

    def nodes(self) -> tuple[Node, ...]:
        """All nodes."""
        return self._nodes.all()

    def service(self, service_id: str) -> Service | None:
        """The service of that id."""
        return self._services.get(service_id)

    def services(self) -> tuple[Service, ...]:
        """All services."""
        return self._services.all()

    def service_by_name(self, name: str) -> Service | None:
        """The service of that name that is not being removed; names are unique among these."""
        for service in self._services.group(SERVICE_NAME, name):
            return service
        return None

    def services_on_port(self, protocol: str, port: int) -> tuple[Service, ...]:
        """The services that hold a published port, for all nodes or on their own, by id."""
        return tuple(sorted(self._services.group(SERVICE_PORT, (protocol, port)), key=_BY_ID))

    def task(self, task_id: str) -> Task | None:
        """The task of that id."""
        return self._tasks.get(task_id)

    def tasks_of(self, task_ids: Iterable[str]) -> list[Task | None]:
        """The tasks of these ids, in their order."""
        return self._tasks.get_all(task_ids)

    def tasks(self) -> tuple[Task, ...]:
        """All tasks."""
        return self._tasks.all()

    def service_ids(self) -> tuple[str, ...]:
        """The ids of all services, and of those that tasks are left of."""
        left = (str(key) for key in self._tasks.keys(TASK_SERVICE))
        return tuple(sorted({*(service.id for service in self.services()), *left}))

    def tasks_of_service(self, service_id: str) -> tuple[Task, ...]:
        """The tasks of a service, ended ones too."""
        return self._tasks.group(TASK_SERVICE, service_id)

    def tasks_waiting(self) -> tuple[Task, ...]:
        """The tasks that were not given to a node yet."""
        return self._tasks.group(TASK_WAITING, True)

    def tasks_on_node(self, node_id: str) -> tuple[Task, ...]:
        """The tasks that were given to a node, ended ones too, by id."""
        # A task comes to its node by an update: the order of arrival would differ after a restore.
        return tuple(sorted(self._tasks.group(TASK_NODE, node_id), key=_BY_ID))

    def nodes_with_tasks(self) -> tuple[str, ...]:
        """The ids of all nodes that tasks were given to, members or not."""
        return tuple(sorted(str(key) for key in self._tasks.keys(TASK_NODE)))

    def services_referring(self, object_id: str) -> tuple[Service, ...]:
        """The services whose spec, or the one before, has that secret or config or those credentials, by id."""
        return tuple(sorted(self._services.group(SERVICE_REFERENCE, object_id), key=_BY_ID))

    def tasks_referring(self, object_id: str) -> tuple[Task, ...]:
        """The tasks that are not over and have that secret or config or those credentials, by id."""
        return tuple(sorted(self._tasks.group(TASK_REFERENCE, object_id), key=_BY_ID))

    def is_referred_to(self, object_id: str) -> bool:
        """True when :meth:`services_referring` or :meth:`tasks_referring` would find somebody."""
        return self._services.has_any(SERVICE_REFERENCE, object_id) or self._tasks.has_any(TASK_REFERENCE, object_id)

    def secret(self, secret_id: str) -> Secret | None:
        """The secret of that id, of whichever version."""
        return self._secrets.get(secret_id)

    def secrets(self) -> tuple[Secret, ...]:
        """All versions of all secrets."""
        return self._secrets.all()

    def secret_versions(self, name: str) -> tuple[Secret, ...]:
        """The versions that are left of the secret of that name, the latest at the end."""
        return tuple(sorted(self._secrets.group(SECRET_NAME, name), key=_BY_NUMBER))

    def secret_by_name(self, name: str) -> Secret | None:
        """The latest version of the secret of that name."""
        return max(self._secrets.group(SECRET_NAME, name), key=_BY_NUMBER, default=None)

    def config(self, config_id: str) -> Config | None:
        """The config of that id, of whichever version."""
        return self._configs.get(config_id)

    def configs(self) -> tuple[Config, ...]:
        """All versions of all configs."""
        return self._configs.all()

    def config_versions(self, name: str) -> tuple[Config, ...]:
        """The versions that are left of the config of that name, the latest at the end."""
        return tuple(sorted(self._configs.group(CONFIG_NAME, name), key=_BY_NUMBER))

    def config_by_name(self, name: str) -> Config | None:
        """The latest version of the config of that name."""
        return max(self._configs.group(CONFIG_NAME, name), key=_BY_NUMBER, default=None)

    def get(self, kind: Kind, object_id: str) -> StoreObject | None:
        """The object of that kind and id."""
        match kind:
            case Kind.CLUSTER:
                return self._clusters.get(object_id)
            case Kind.NODE:
                return self._nodes.get(object_id)
            case Kind.SERVICE:
                return self._services.get(object_id)
            case Kind.TASK:
                return self._tasks.get(object_id)
            case Kind.SECRET:
                return self._secrets.get(object_id)
            case Kind.CONFIG:
                return self._configs.get(object_id)
