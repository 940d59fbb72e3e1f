"""Published ports and the step from NEW to PENDING."""

from __future__ import annotations

import attrs
import pytest
from control_world import World, spec

from swarmpy.control import allocator
from swarmpy.control.allocator import allocate_ports
from swarmpy.control.ports import PortTable, is_allocated
from swarmpy.errors import AlreadyExists, FailedPrecondition
from swarmpy.model import changes
from swarmpy.model.defaults import DYNAMIC_PORT_FIRST, DYNAMIC_PORT_LAST
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Service
from swarmpy.model.specs import PortConfig
from swarmpy.model.states import TaskState


def published(world: World, service: ServiceId) -> list[int]:
    return [port.published_port for port in world.service(service).ports]


def test_dynamic_ports_are_chosen_from_their_range() -> None:
    """Ports left open get the lowest free numbers, each protocol for itself."""
    world = World()
    ports = (
        PortConfig(target_port=80),
        PortConfig(target_port=443),
        PortConfig(target_port=53, protocol="udp"),
        PortConfig(target_port=9000, publish_mode="host"),
    )
    web = world.add_service(spec(ports=ports))
    world.run()
    first = DYNAMIC_PORT_FIRST
    assert published(world, web) == [first, first + 1, first, 0]
    assert is_allocated(world.service(web))


def test_tasks_carry_their_services_ports() -> None:
    """A task leaves NEW with the ports of its service."""
    world = World()
    web = world.add_service(spec(ports=(PortConfig(target_port=80),)))
    world.settle()
    for task in world.tasks(web):
        assert task.status.state is TaskState.PENDING
        assert task.ports == world.service(web).ports


def test_taken_port_is_refused_with_the_owner() -> None:
    """A service that wants another's ingress port is told whose it is."""
    world = World()
    web = world.add_service(spec(ports=(PortConfig(target_port=80, published_port=8080),)))
    world.settle()
    other = Service(id=ServiceId("x"), spec=spec("api", ports=(PortConfig(target_port=80, published_port=8080),)))
    with pytest.raises(AlreadyExists) as caught:
        allocate_ports(world.view, other)
    assert str(caught.value) == f"port '8080' is already in use by service 'web' ({web}) as an ingress port"
    udp = spec("api", ports=(PortConfig(target_port=80, published_port=8080, protocol="udp"),))
    assert len(allocate_ports(world.view, attrs.evolve(other, spec=udp))) == 1


def test_host_ports_exclude_ingress_ports_but_not_each_other() -> None:
    """A host-mode port may be published by two services, but not be the ingress's as well."""
    world = World()
    host = (PortConfig(target_port=80, published_port=8080, publish_mode="host"),)
    world.add_service(spec(ports=host))
    world.settle()
    same = Service(id=ServiceId("x"), spec=spec("api", ports=host))
    assert allocate_ports(world.view, same) == host
    ingress = attrs.evolve(same, spec=spec("api", ports=(PortConfig(target_port=80, published_port=8080),)))
    with pytest.raises(AlreadyExists, match="as a host-published port"):
        allocate_ports(world.view, ingress)


def test_update_keeps_dynamic_ports() -> None:
    """A port that was chosen by the cluster stays the same when the service is updated."""
    world = World()
    world.add_service(spec("first", ports=(PortConfig(target_port=1),)))
    web = world.add_service(spec(ports=(PortConfig(target_port=80),)))
    world.settle()
    before = published(world, web)
    more = (PortConfig(target_port=443), PortConfig(target_port=80))
    world.update_service(web, spec(ports=more))
    world.settle()
    assert published(world, web)[1:] == before


def test_removed_service_gives_its_ports_up() -> None:
    """A service that is being removed does not hold its port until its last task has stopped."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(ports=(PortConfig(target_port=80, published_port=8080),)))
    world.run()
    world.remove_service(web)
    again = Service(id=ServiceId("x"), spec=spec("again", ports=(PortConfig(target_port=80, published_port=8080),)))
    assert allocate_ports(world.view, again)[0].published_port == 8080


def test_exhaustion_is_written_on_the_tasks_and_retried() -> None:
    """With no port left the waiting tasks say so, once, and go on when there is one again."""
    world = World()
    world.add_node("a")
    count = DYNAMIC_PORT_LAST - DYNAMIC_PORT_FIRST + 1
    hog = world.add_service(spec("hog", replicas=0, ports=tuple(PortConfig(target_port=i + 1) for i in range(count))))
    web = world.add_service(spec(replicas=1, ports=(PortConfig(target_port=80),)))
    world.run()
    (task,) = world.tasks(web)
    assert task.status.state is TaskState.NEW
    assert task.status.err.startswith("no free published port for port 80/tcp of service 'web'")
    assert allocator.decide(world.view, [s.id for s in world.view.services()]).is_empty
    with pytest.raises(FailedPrecondition):
        PortTable(world.view).allocate(world.service(web))
    world.remove_service(hog)
    world.run()
    (running,) = world.running(web)
    assert running.status.err == ""


def test_two_services_in_one_pass_get_different_ports() -> None:
    """What one service gets in a decision is taken for the next one in the same decision."""
    world = World()
    services = [world.add_service(spec(f"s{i}", ports=(PortConfig(target_port=80),))) for i in range(3)]
    world.write(*allocator.decide(world.view, [s.id for s in world.view.services()]).changes)
    assert len({published(world, service)[0] for service in services}) == 3
    world.write(*[changes.update(attrs.evolve(world.service(services[0]), pending_delete=True))])
    assert allocator.decide(world.view, [s.id for s in world.view.services()]).is_empty
