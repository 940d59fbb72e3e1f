"""What must hold of updates: one that makes no progress is given up at its deadline.

The deadline is measured by the leader's own clock, from the last progress that it has seen. So it is judged only while
one and the same leader is in office, and with some time for slow disks, far links and clocks that go too slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from swarmpy.model.defaults import update_config
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Service
from swarmpy.model.states import UpdateState
from swarmpy.store.view import View

CLOCK_RATE = 1.2
SLACK_S = 12.0
"""The longest that a host stands still, and then a write on the slowest disk and network."""


class UpdateLaws:
    """``now`` tells the time in seconds, ``term`` the term of the leader; None: there is none."""

    def __init__(
        self,
        fail: Callable[[str], None],
        checked: Callable[[str], None],
        now: Callable[[], float],
        term: Callable[[], int | None],
    ) -> None:
        self._fail = fail
        self._checked = checked
        self._now = now
        self._term = term
        self._waiting: dict[ServiceId, tuple[Hashable, float]] = {}
        """How far each update has come, and since when."""

    def check(self, view: View) -> None:
        """Look at all updates that go on."""
        term, waiting = self._term(), self._waiting
        self._waiting = {}
        for service in view.services():
            most_s = _most_s(service)
            if most_s is None or term is None or service.pending_delete:
                continue
            mark = (term, *_progress(view, service))
            before, since = waiting.get(service.id, (None, 0.0))
            if before != mark:
                since = self._now()
            elif self._now() - since > most_s:
                self._fail(f"the update of {service.spec.name} has made no progress for {self._now() - since:.1f} s")
            self._waiting[service.id] = (mark, since)
            self._checked("no update beyond its deadline")


def _most_s(service: Service) -> float | None:
    """How long the update may go on without progress; None where none goes on, or it has no deadline."""
    status = service.update_status
    if status is None or status.state not in (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED):
        return None
    is_rollback = status.state is UpdateState.ROLLBACK_STARTED
    config = update_config(service.spec.rollback if is_rollback else service.spec.update)
    if config.failure_action == "continue" or not config.progress_deadline_ns:
        return None
    longest_ns = config.progress_deadline_ns + (config.delay_ns or 0) + (config.monitor_ns or 0)
    return longest_ns / 1e9 * CLOCK_RATE + SLACK_S


def _progress(view: View, service: Service) -> tuple[Hashable, ...]:
    """Changes whenever a slot's new task runs for the first time, and with each new update."""
    status = service.update_status
    tasks = view.tasks_of_service(service.id)
    there = {t.slot or t.node_id for t in tasks if t.spec_version == service.spec_version and t.started_at_ns}
    return service.spec_version, status and status.state, status and status.started_at_ns, frozenset(there)
