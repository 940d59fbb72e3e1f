"""What a node checks of a task before it makes anything of it.

The managers have checked it all before it was stored, but perhaps those of an earlier version; and what a placeholder
stands for is known on the node only. So whatever becomes a file name, a container's name or part of a command line is
looked at here again.
"""

from __future__ import annotations

import attrs

from swarmpy.errors import InvalidArgument, TaskRejected
from swarmpy.model import grammar
from swarmpy.model.container_checks import check_expanded, check_log_driver, check_networks
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec
from swarmpy.model.template import NodeFacts, expand, expand_known, map_templated


def expanded(task: Task, node: NodeFacts) -> ContainerSpec:
    """The task's container with its placeholders replaced.

    Raises TaskRejected for the first thing in the task that is not as it must be.
    """
    if not grammar.is_id(task.id):
        raise TaskRejected(f"{grammar.shown(task.id)} is not the id of a task")
    try:
        grammar.check_object_name(task.name)
        container = map_templated(task.spec.container, lambda text: expand(text, task, node))
        container = attrs.evolve(
            container,
            command=tuple(expand_known(word, task, node) for word in container.command),
            args=tuple(expand_known(word, task, node) for word in container.args),
        )
        check_expanded(container)
        check_log_driver(task.spec.log_driver)
        check_networks(task.spec.networks)
    except (InvalidArgument, ValueError) as error:
        raise TaskRejected(str(error)) from None
    return container
