"""The whole decision about one service: removal, restart, scale and update, in this order.

Decides from the state alone; all it remembers is how long it has waited. Never decides on nodes of which a new leader
has not heard.
"""

from __future__ import annotations

from swarmpy.control import global_mode, replicated
from swarmpy.control.decision import Decision, NewId
from swarmpy.control.draft import Draft, with_desired
from swarmpy.control.jobs import decide_job
from swarmpy.control.restart import supervise
from swarmpy.control.update import decide_update
from swarmpy.control.waiting import Waits
from swarmpy.model import changes
from swarmpy.model.ids import ServiceId
from swarmpy.model.states import Cause, TaskState
from swarmpy.store.view import View


def decide_service(view: View, service_id: ServiceId, now_ns: int, new_id: NewId, waits: Waits) -> Decision:
    """What has to change for the service to be as its user wants it, and when to look again.

    ``waits`` is the service's, and the leader's for its term of office. Decided twice on the same state, the changes
    are the same; on the state with the changes made, there are none.
    """
    service = view.service(service_id)
    if service is None:
        return _remove_tasks(view, service_id)
    if service.pending_delete:
        if not view.tasks_of_service(service_id):
            return Decision(changes=(changes.delete(service),))
        return _remove_tasks(view, service_id)
    draft = Draft(view, service, now_ns, new_id, waits)
    if service.job is not None:
        decide_job(draft)
        return draft.decision()
    if draft.is_global:
        global_mode.release_nodes(draft)
    for key in list(draft.slots):
        supervise(draft, key)
    if draft.is_global:
        global_mode.decide_nodes(draft)
    else:
        replicated.decide_replicas(draft)
    decide_update(draft)
    return draft.decision()


def _remove_tasks(view: View, service_id: ServiceId) -> Decision:
    kept = (task for task in view.tasks_of_service(service_id) if task.desired_state < TaskState.REMOVE)
    gone = (with_desired(task, TaskState.REMOVE, Cause.REMOVED) for task in kept)
    return Decision(changes=tuple(map(changes.update, gone)))
