"""Jobs: tasks that are to complete, a number of them or one on each node."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest
from control_world import SECOND, World, spec

from swarmpy.control.explain import Replicas, count_replicas, why_not_running
from swarmpy.control.validate import validate_service_spec
from swarmpy.errors import InvalidArgument
from swarmpy.model import changes
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import JobStatus, Task
from swarmpy.model.specs import Placement, RestartPolicy, ServiceSpec, UpdateConfig
from swarmpy.model.states import Availability, NodeState, ServiceMode, TaskState

S = TaskState


def job(completions: int = 5, at_once: int = 2, **more: Any) -> ServiceSpec:
    return spec(
        replicas=None,
        mode=ServiceMode.REPLICATED_JOB,
        max_concurrent=at_once,
        total_completions=completions,
        update=None,
        **more,
    )


def global_job(**more: Any) -> ServiceSpec:
    return spec(replicas=None, mode=ServiceMode.GLOBAL_JOB, update=None, **more)


class Jobs(World):
    """A world that has jobs, executed again by each change."""

    def __init__(self, *nodes: str, limit: int = 5) -> None:
        super().__init__(limit)
        self.nodes = [self.add_node(name) for name in nodes]

    def add_job(self, wanted: ServiceSpec) -> ServiceId:
        service_id = self.add_service(wanted)
        self.write(changes.update(attrs.evolve(self.service(service_id), job=JobStatus())))
        self.run()
        return service_id

    def execute(self, service_id: ServiceId, wanted: ServiceSpec) -> None:
        service = self.service(service_id)
        assert service.job is not None
        again = JobStatus(iteration=service.job.iteration + 1)
        self.write(changes.update(attrs.evolve(service, spec=wanted, job=again)))
        self.run()

    def under_way(self, service_id: ServiceId) -> list[Task]:
        return self.tasks(service_id, S.RUNNING)

    def end(self, task: Task, state: TaskState = S.COMPLETE) -> None:
        self.report(task, state, "" if state is S.COMPLETE else "boom")
        self.run()

    def told(self, service_id: ServiceId) -> str:
        """``running/desired completed``, as the listings tell it."""
        found = count_replicas(self.view, self.service(service_id))
        return f"{found.running}/{found.desired} {found.completed}"


def test_a_job_runs_few_at_once_until_enough_have_completed() -> None:
    """Each completion is a slot of its own; no slot runs twice, and nothing runs in the end."""
    world = Jobs("a", "b")
    work = world.add_job(job(5, 2))
    seen = []
    while world.under_way(work):
        assert len(world.under_way(work)) <= 2
        seen.append(world.told(work))
        world.end(world.under_way(work)[0])
    assert seen == ["2/2 0", "2/2 1", "2/2 2", "2/2 3", "1/1 4"]
    assert world.told(work) == "0/0 5"
    assert sorted(task.slot for task in world.tasks(work, S.COMPLETE)) == [1, 2, 3, 4, 5]
    assert {task.desired_state for task in world.tasks(work)} == {S.COMPLETE}
    assert why_not_running(world.view, world.service(work)) == ""
    world.advance(3600)
    assert len(world.tasks(work)) == 5


def test_empty_numbers_are_one() -> None:
    """One completion, one at a time; with a concurrency alone, as many completions as that."""
    wanted = attrs.evolve(job(), max_concurrent=None, total_completions=None)
    assert (wanted.desired_concurrency, wanted.desired_completions) == (1, 1)
    assert attrs.evolve(wanted, max_concurrent=3).desired_completions == 3


def test_what_failed_is_tried_again_after_its_delay() -> None:
    """In its slot, which counts among those under way all the time."""
    world = Jobs("a")
    work = world.add_job(job(2, 1, restart=RestartPolicy(delay_ns=5 * SECOND)))
    world.end(world.under_way(work)[0], S.FAILED)
    world.advance(4.9)
    assert world.under_way(work) == []
    assert [task.slot for task in world.tasks(work)] == [1, 1]
    world.advance(0.2)
    assert [task.slot for task in world.under_way(work)] == [1]


def test_a_slot_out_of_attempts_is_given_up_and_holds_no_other_back() -> None:
    """The rest completes; the next execution tries anew, with attempts of its own."""
    world = Jobs("a")
    wanted = job(3, 1, restart=RestartPolicy(delay_ns=0, max_attempts=1))
    work = world.add_job(wanted)
    for _ in range(2):
        (task,) = world.under_way(work)
        assert task.slot == 1
        world.end(task, S.FAILED)
        world.advance(1)
    for slot in (2, 3):
        (task,) = world.under_way(work)
        assert task.slot == slot
        world.end(task)
    world.advance(60)
    assert world.under_way(work) == []
    assert world.told(work) == "0/1 2"
    assert "failed, not restarted by its policy: boom" in why_not_running(world.view, world.service(work))
    world.execute(work, wanted)
    (task,) = world.under_way(work)
    world.end(task, S.FAILED)
    world.advance(1)
    assert [task.slot for task in world.under_way(work)] == [1]


def test_without_restarts_a_failure_is_final() -> None:
    """Condition none."""
    world = Jobs("a")
    work = world.add_job(job(2, 2, restart=RestartPolicy(condition="none")))
    for task in world.under_way(work):
        world.end(task, S.FAILED)
    world.advance(60)
    assert len(world.tasks(work)) == 2
    assert world.told(work) == "0/2 0"


def test_each_change_executes_the_job_again() -> None:
    """What ran is removed, even where the spec of the tasks is the same; what has completed before counts no more."""
    world = Jobs("a")
    wanted = job(2, 1)
    work = world.add_job(wanted)
    world.end(world.under_way(work)[0])
    (old,) = world.under_way(work)
    world.execute(work, wanted)
    assert world.view.task(old.id) is None
    assert world.told(work) == "1/1 0"
    assert [(task.slot, task.iteration) for task in world.under_way(work)] == [(1, 1)]
    for _ in range(2):
        world.end(world.under_way(work)[0])
    assert world.told(work) == "0/0 2"
    assert len([task for task in world.tasks(work) if task.iteration == 0]) == 1


def test_a_new_execution_waits_for_the_one_before_to_stop() -> None:
    """So that there are never more at once than allowed."""
    world = Jobs("a")
    work = world.add_job(job(4, 2))
    world.execute(work, job(4, 1))
    world.settle()
    world.execute(work, job(4, 2))
    assert len(world.under_way(work)) == 2
    before = {task.id for task in world.under_way(work)}
    service = world.service(work)
    world.write(changes.update(attrs.evolve(service, spec=job(4, 1), job=JobStatus(iteration=9))))
    world.settle()
    assert [task.id for task in world.under_way(work) if task.desired_state is not S.REMOVE] == []
    assert {task.id for task in world.under_way(work)} == before
    world.run()
    assert len(world.under_way(work)) == 1


@pytest.mark.parametrize("trouble", ["down", "drained", "removed"])
def test_a_task_that_lost_its_node_is_replaced_elsewhere(trouble: str) -> None:
    """At once: it did nothing wrong."""
    world = Jobs("a", "b")
    work = world.add_job(job(1, 1, restart=RestartPolicy(delay_ns=60 * SECOND)))
    (task,) = world.under_way(work)
    node = next(node for node in world.nodes if node.id == task.node_id)
    if trouble == "down":
        world.set_node(node, state=NodeState.DOWN)
    elif trouble == "drained":
        world.set_node(node, availability=Availability.DRAIN)
    else:
        world.write(changes.delete(node))
    world.run()
    (moved,) = [task for task in world.under_way(work) if task.desired_state is S.COMPLETE]
    assert moved.node_id != node.id
    assert moved.slot == 1


def test_who_completes_while_he_is_told_to_stop_has_completed() -> None:
    """The replacement that waited for him is not needed."""
    world = Jobs("a", "b")
    work = world.add_job(job(1, 1))
    (task,) = world.under_way(work)
    world.set_node(next(node for node in world.nodes if node.id == task.node_id), availability=Availability.DRAIN)
    world.settle()
    assert len(world.tasks(work)) == 2
    world.end(task)
    assert world.told(work) == "0/0 1"
    assert world.under_way(work) == []


def test_completions_are_not_forgotten_with_the_history() -> None:
    """Whatever the limit: they say what is left to do. Failures are forgotten."""
    world = Jobs("a", limit=0)
    work = world.add_job(job(3, 1, restart=RestartPolicy(delay_ns=0)))
    world.end(world.under_way(work)[0], S.FAILED)
    world.advance(1)
    while world.under_way(work):
        world.end(world.under_way(work)[0])
    world.advance(60)
    assert sorted(task.status.state for task in world.tasks(work)) == [S.COMPLETE] * 3


def test_another_leader_goes_on_where_the_last_one_was() -> None:
    """All of it is in the state; also with a clock that is an hour behind."""
    world = Jobs("a")
    work = world.add_job(job(3, 1, restart=RestartPolicy(delay_ns=5 * SECOND)))
    world.end(world.under_way(work)[0], S.FAILED)
    world.new_leader(skew_ns=-3600 * SECOND)
    world.advance(6)
    while world.under_way(work):
        world.end(world.under_way(work)[0])
    assert world.told(work) == "0/0 3"


def test_a_global_job_completes_once_on_each_node() -> None:
    """Also on one that comes later, or comes back."""
    world = Jobs("a", "b")
    work = world.add_job(global_job())
    assert world.told(work) == "2/2 0"
    on_a, on_b = sorted(world.under_way(work), key=lambda task: str(task.node_id))
    world.end(on_a)
    assert world.told(work) == "1/1 1"
    world.set_node(world.nodes[1], state=NodeState.DOWN)
    world.run()
    assert world.told(work) == "0/0 1"
    world.set_node(world.nodes[1], state=NodeState.READY)
    world.run()
    (again,) = world.under_way(work)
    assert (again.node_id, again.id == on_b.id) == (on_b.node_id, False)
    world.end(again)
    world.add_node("c")
    world.run()
    assert world.told(work) == "1/1 2"
    world.end(world.under_way(work)[0])
    world.advance(60)
    assert world.told(work) == "0/0 3"


def test_a_global_job_leaves_a_node_that_is_drained() -> None:
    """And runs there again afterwards; where it has completed it does not."""
    world = Jobs("a", "b")
    work = world.add_job(global_job())
    world.end(next(task for task in world.under_way(work) if task.node_id == world.nodes[0].id))
    for node in world.nodes:
        world.set_node(node, availability=Availability.DRAIN)
    world.run()
    assert world.under_way(work) == []
    for node in world.nodes:
        world.set_node(node, availability=Availability.ACTIVE)
    world.run()
    assert [task.node_id for task in world.under_way(work)] == [world.nodes[1].id]


def test_removing_a_job_removes_all_of_it() -> None:
    """What has completed as well."""
    world = Jobs("a")
    work = world.add_job(job(3, 1))
    world.end(world.under_way(work)[0])
    world.remove_service(work)
    world.run()
    assert world.view.service(work) is None
    assert world.view.tasks_of_service(work) == ()


def test_a_job_of_nothing_waits_to_be_scaled() -> None:
    """As ``--replicas 0`` makes it."""
    validate_service_spec(job(0, 0))
    jobs = Jobs("a")
    work = jobs.add_job(job(0, 0))
    assert jobs.tasks(work) == []
    jobs.execute(work, job(2, 1))
    assert len(jobs.under_way(work)) == 1


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [
        (attrs.evolve(job(), update=UpdateConfig()), "Jobs may not have an update config"),
        (attrs.evolve(job(), rollback=UpdateConfig()), "Jobs may not have a rollback config"),
        (attrs.evolve(job(), replicas=1), "a job has total completions"),
        (attrs.evolve(global_job(), max_concurrent=1), "can only be used with replicated-job mode"),
        (attrs.evolve(spec(), total_completions=1), "can only be used with replicated-job mode"),
        (job(1, 0), "MaxConcurrent of a job must be at least 1, not 0"),
        (job(0, -1), "MaxConcurrent of a job must be at least 1, not -1"),
        (job(-1, 1), "TotalCompletions of a job must be between 0"),
        (job(100_000_000, 1), "TotalCompletions of a job must be between 0"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(wanted: ServiceSpec, refusal: str) -> None:
    """With the reason."""
    with pytest.raises(InvalidArgument, match=refusal):
        validate_service_spec(wanted)


def test_many_completions_do_not_hold_the_loop() -> None:
    """One decision about a job that has as many completions as are allowed, all done but one."""
    from swarmpy.control.validate import MAX_COMPLETIONS

    world = Jobs("a")
    work = world.add_job(job(MAX_COMPLETIONS, 1))
    (task,) = world.under_way(work)
    done = attrs.evolve(task, status=attrs.evolve(task.status, state=S.COMPLETE))
    copies = [attrs.evolve(done, id=world.new_id(), slot=slot) for slot in range(2, MAX_COMPLETIONS)]
    world.write(*map(changes.create, copies))
    began = time.process_time()
    world.decide_service(work)
    took_s = time.process_time() - began
    print(f"{took_s * 1000:.1f} ms")
    assert count_replicas(world.view, world.service(work)) == Replicas(
        running=1, desired=1, completed=MAX_COMPLETIONS - 2
    )
    assert took_s < 0.25


def test_a_task_whose_node_is_no_place_for_it_any_more_is_tried_elsewhere() -> None:
    """It had not completed; on the other node it may. A global job waits for a node that fits."""
    here = Placement(constraints=("node.labels.zone==eu",))
    jobs = Jobs()
    a = jobs.add_node("a", zone="eu")
    some = jobs.add_job(job(2, 2, placement=here))
    each = jobs.add_job(attrs.evolve(global_job(placement=here), name="each"))
    assert len(jobs.under_way(some)) + len(jobs.under_way(each)) == 3
    b = jobs.add_node("b", zone="eu")
    jobs.write(changes.update(attrs.evolve(a, meta=jobs.view.node(a.id).meta, spec=attrs.evolve(a.spec, labels={}))))
    jobs.run()
    for service in (some, each):
        running = [t for t in jobs.tasks(service, S.RUNNING) if t.desired_state is S.COMPLETE]
        assert {task.node_id for task in running} == {b.id}
        assert len(running) == (2 if service == some else 1)
