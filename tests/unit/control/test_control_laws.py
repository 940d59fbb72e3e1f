"""Laws of all decisions together, whatever happens to the cluster."""

from __future__ import annotations

from collections import Counter

from control_world import SECOND, World, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.control.nodes import standing
from swarmpy.model import changes
from swarmpy.model.changes import Change
from swarmpy.model.ids import ServiceId
from swarmpy.model.specs import MaxUnavailable, RestartPolicy, UpdateConfig
from swarmpy.model.states import Availability, NodeState, ServiceMode, TaskState

NODES = 4

EVENTS = st.one_of(
    st.tuples(st.just("node"), st.integers(0, NODES - 1), st.sampled_from(list(NodeState))),
    st.tuples(st.just("availability"), st.integers(0, NODES - 1), st.sampled_from(list(Availability))),
    st.tuples(st.just("scale"), st.integers(0, 5), st.none()),
    st.tuples(st.just("image"), st.integers(1, 4), st.sampled_from(["stop-first", "start-first"])),
    st.tuples(st.just("fail"), st.integers(0, 20), st.sampled_from([TaskState.FAILED, TaskState.COMPLETE])),
    st.tuples(st.just("wait"), st.integers(0, 12), st.none()),
    st.tuples(st.just("step"), st.integers(1, 4), st.none()),
    st.tuples(st.just("forget"), st.integers(0, NODES - 1), st.none()),
)


class History:
    """Applies events to a world with a replicated and a global service."""

    def __init__(self, action: str, bound: str = "") -> None:
        self.world = World(limit=2)
        self.bound = MaxUnavailable.parse(bound) if bound else None
        self.nodes = [self.world.add_node(f"n{number}") for number in range(NODES)]
        self.replicas, self.image, self.order, self.action = 3, "nginx:1", "stop-first", action
        self.web = self.world.add_service(self._spec())
        self.agent = self.world.add_service(spec("agent", replicas=None, mode=ServiceMode.GLOBAL))

    def _spec(self) -> object:
        update = UpdateConfig(order=self.order, failure_action=self.action, delay_ns=SECOND)
        return spec(
            replicas=self.replicas,
            image=self.image,
            update=update,
            restart=RestartPolicy(delay_ns=3 * SECOND),
            max_unavailable=self.bound,
        )

    def happen(self, event: tuple[str, int, object]) -> None:
        kind, number, detail = event
        world = self.world
        node = self.nodes[number] if number < NODES else None
        if kind in ("node", "availability", "forget") and (node is None or world.view.node(node.id) is None):
            return
        match kind:
            case "node":
                world.set_node(node, state=detail)  # type: ignore[arg-type]
            case "availability":
                world.set_node(node, availability=detail)  # type: ignore[arg-type]
            case "forget":
                current = world.view.node(node.id)  # type: ignore[union-attr]
                assert current is not None
                if current.status.state is NodeState.DOWN:
                    world.write(changes.delete(current))
            case "scale":
                self.replicas = number
                world.update_service(self.web, self._spec())  # type: ignore[arg-type]
            case "image":
                self.image, self.order = f"nginx:{number}", str(detail)
                world.update_service(self.web, self._spec())  # type: ignore[arg-type]
            case "fail":
                running = world.running(self.web)
                if running:
                    world.report(running[number % len(running)], detail)  # type: ignore[arg-type]
            case "wait":
                world.advance(number)
            case "step":
                for _ in range(number):
                    world.decide()
                    world.agents()


def check_slots(world: World, service: ServiceId) -> None:
    """No slot has two tasks that are meant to run, but for the moment of an exchange in which one of them runs."""
    meant = [t for t in world.tasks(service) if t.desired_state <= TaskState.RUNNING and not t.status.state.is_terminal]
    for slot, count in Counter((t.slot, t.slot or t.node_id) for t in meant).items():
        assert count <= 2, slot
        if count == 2:
            assert any(t.status.state == TaskState.RUNNING for t in meant if t.slot == slot[0]), slot


@settings(max_examples=60, deadline=None)
@given(events=st.lists(EVENTS, max_size=14), action=st.sampled_from(["pause", "continue", "rollback"]))
def test_decisions_come_to_rest_and_are_right(events: list[tuple[str, int, object]], action: str) -> None:
    """After any history the decisions come to rest, change nothing when repeated, and hold at most one task a slot.

    That observed and desired states only rise, and each by an owner that may do it, is checked with every write.
    """
    history = History(action)
    world = history.world
    for event in events:
        history.happen(event)
    world.settle()
    check_slots(world, history.web)
    check_slots(world, history.agent)
    assert world.decide() == 0
    held = {t.slot for t in world.tasks(history.web) if t.desired_state <= TaskState.RUNNING}
    # A rollback brings the replicas of the spec before back as well.
    assert len(held) == world.service(history.web).spec.desired_replicas


def there(world: World, service: ServiceId) -> set[int]:
    """The slots of which a task runs, is meant to, and can be asked."""
    running = world.running(service)
    return {task.slot for task in running if not standing(world.view, task).is_lost}


@settings(max_examples=80, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=14),
    action=st.sampled_from(["pause", "continue", "rollback"]),
    bound=st.sampled_from(["1", "2", "50%"]),
)
def test_no_more_is_taken_away_than_may_be_missing(
    events: list[tuple[str, int, object]], action: str, bound: str
) -> None:
    """Whatever fails: a task that runs is told to stop only while enough others do; what is lost asks nobody."""
    history = History(action, bound)
    world, web = history.world, history.web
    write = world.write

    def judged(*changed: Change) -> None:
        before = there(world, web)
        taken = {c.task.slot for c in changed if c.task is not None and c.task.desired_state is TaskState.SHUTDOWN}
        write(*changed)
        if (before - there(world, web)) & taken:
            wanted = world.service(web).spec
            assert wanted.max_unavailable is not None
            least = wanted.desired_replicas - wanted.max_unavailable.of(wanted.desired_replicas)
            assert len(there(world, web)) >= least

    world.write = judged  # type: ignore[method-assign]
    for event in events:
        history.happen(event)
    world.settle()


@settings(max_examples=40, deadline=None)
@given(events=st.lists(EVENTS, max_size=14), bound=st.sampled_from(["", "1"]))
def test_cluster_heals_when_troubles_end(events: list[tuple[str, int, object]], bound: str) -> None:
    """Once all nodes are back and open, time brings exactly the tasks that are wanted, of the wanted image."""
    history = History("continue", bound)
    world = history.world
    for event in events:
        history.happen(event)
    for node in history.nodes:
        if world.view.node(node.id) is not None:
            world.set_node(node, NodeState.READY, Availability.ACTIVE)
    if not world.view.nodes():
        world.add_node("new")
    world.advance(120)
    assert world.images(history.web) == [history.image] * history.replicas
    assert world.spread(history.agent) == [1] * len(world.view.nodes())
    stopping = [t for t in world.view.tasks() if t.desired_state > TaskState.RUNNING]
    assert all(task.status.state.is_terminal for task in stopping)
    assert world.wake_at_ns is None
    assert world.decide() == 0


@settings(max_examples=30, deadline=None)
@given(events=st.lists(EVENTS, max_size=8), leave_out=st.integers(0, 10))
def test_lost_writes_are_decided_again(events: list[tuple[str, int, object]], leave_out: int) -> None:
    """A decision of which one change was refused is put right by the next ones."""
    history = History("continue")
    world = history.world
    whole_write = world.write

    def losing_write(*changed: changes.Change) -> None:
        whole_write(*(change for place, change in enumerate(changed) if place != leave_out))

    for event in events:
        history.happen(event)
        world.write = losing_write  # type: ignore[method-assign]
        for _ in range(3):
            world.decide()
        world.write = whole_write  # type: ignore[method-assign]
    for node in history.nodes:
        if world.view.node(node.id) is not None:
            world.set_node(node, NodeState.READY, Availability.ACTIVE)
    if not world.view.nodes():
        world.add_node("new")
    world.advance(120)
    assert len(world.running(history.web)) == history.replicas
