"""The options of ``swarmpy service create`` and ``update``: names and meaning are the docker command's. Pure."""

from __future__ import annotations

from typing import Any

import click

from swarmpy.api.service_json import MAX_UNAVAILABLE
from swarmpy.cli import spec_values as values
from swarmpy.cli.spec_container import CONTAINER, CONTAINER_OPTIONS, DURATION, HEALTH_OPTIONS, NUMBER, TASK, named
from swarmpy.cli.spec_options import Json, Many, One, Own, Pairs, Place, SpecOption, field_at, read_pair
from swarmpy.compose import units
from swarmpy.errors import InvalidArgument
from swarmpy.model import defaults

_PLACEMENT: Place = (*TASK, "Placement")
_RESTART: Place = (*TASK, "RestartPolicy")


# -- how many tasks ---------------------------------------------------------------------------------------------------

_MODES: dict[str, Json] = {
    "replicated": {"Replicated": {"Replicas": 1}},
    "global": {"Global": {}},
    "replicated-job": {"ReplicatedJob": {}},
    "global-job": {"GlobalJob": {}},
}


def mode_word(spec: Json) -> str:
    """The mode of a spec, as ``--mode`` has it."""
    mode = spec.get("Mode") or {}
    return next((word for word, fields in _MODES.items() if mode.keys() & fields.keys()), "replicated")


def _write_mode(spec: Json, word: str) -> None:
    spec["Mode"] = {name: dict(fields) for name, fields in _MODES[word].items()}


def write_replicas(spec: Json, replicas: int) -> None:
    """Sets how many tasks a replicated service has, or how many of a job are to complete. Raises InvalidArgument."""
    match mode_word(spec):
        case "replicated":
            field_at(spec, ("Mode", "Replicated", "Replicas"))["Replicas"] = replicas
        case "replicated-job":
            job = field_at(spec, ("Mode", "ReplicatedJob", "TotalCompletions"))
            job["TotalCompletions"] = replicas
            # As the docker command has it: where nothing else is said, all of them at once.
            job.setdefault("MaxConcurrent", replicas)
        case word:
            raise InvalidArgument(f"--replicas: the mode is {word}, with one task on each node")


def _write_max_concurrent(spec: Json, amount: int) -> None:
    if mode_word(spec) != "replicated-job":
        raise InvalidArgument(f"--max-concurrent: the mode is {mode_word(spec)}; it is for a replicated-job")
    field_at(spec, ("Mode", "ReplicatedJob", "MaxConcurrent"))["MaxConcurrent"] = amount


def _write_max_unavailable(spec: Json, bound: int | str) -> None:
    # An update that says nothing of it keeps it.
    spec[MAX_UNAVAILABLE] = None if bound == values.NO_BOUND else bound


_AMOUNT: tuple[SpecOption, ...] = (
    Own(
        name="--mode",
        help="How many tasks there are.",
        read=click.Choice(list(_MODES)),
        write=_write_mode,
        for_update=False,
    ),
    Own(
        name="--max-concurrent",
        help="Tasks of a job that run at a time  [default: as --replicas].",
        write=_write_max_concurrent,
        **NUMBER,
    ),
    Own(name="--replicas", help="How many tasks; of a job: how many are to complete.", write=write_replicas, **NUMBER),
    Own(
        name="--max-unavailable",
        help="Tasks that drains and updates may leave missing: a number, a percentage, or none.",
        read=values.bound,
        metavar="TASKS",
        write=_write_max_unavailable,
    ),
    One(name="--replicas-max-per-node", help="0: any number.", place=(*_PLACEMENT, "MaxReplicas"), **NUMBER),
)


# -- where and with what ----------------------------------------------------------------------------------------------


def _write_log_driver(spec: Json, name: str) -> None:
    # Options of another driver mean nothing to this one.
    field_at(spec, (*TASK, "LogDriver"))["LogDriver"] = {"Name": name}


def _write_log_options(spec: Json, pairs: tuple[tuple[str, str], ...]) -> None:
    driver = field_at(spec, (*TASK, "LogDriver", "Options"))
    driver["Options"] = {**(driver.get("Options") or {}), **dict(pairs)}


_PLACES: tuple[SpecOption, ...] = (
    Many(
        name="--constraint",
        help="Where tasks may run, such as node.labels.disk==ssd.",
        read=values.one,
        metavar="CONSTRAINT",
        place=(*_PLACEMENT, "Constraints"),
    ),
    Many(
        name="--placement-pref",
        help="Tasks are spread over the values of a label.",
        read=values.spread,
        metavar="spread=LABEL",
        place=(*_PLACEMENT, "Preferences"),
        key=repr,
        is_meant=lambda text, item: item in values.spread(text),
    ),
    *(
        One(
            name=f"--{word}-{unit}",
            help=f"{text} {what}",
            place=(*TASK, "Resources", f"{field}s", resource),
            read=read,
            metavar=metavar,
        )
        for word, field, text in (("limit", "Limit", "At most so"), ("reserve", "Reservation", "Keep so"))
        for unit, resource, what, read, metavar in (
            ("cpu", "NanoCPUs", "many cores.", units.parse_cpus, "CORES"),
            ("memory", "MemoryBytes", "much memory.", units.parse_size, "BYTES"),
            ("pids", "Pids", "many processes.", values.pids, "NUMBER"),
        )
        if (word, unit) != ("reserve", "pids")
    ),
    Many(
        name="--generic-resource",
        help="Keep so many of a kind that nodes have.",
        read=values.generic,
        metavar="KIND=COUNT",
        rm_metavar="KIND",
        place=(*TASK, "Resources", "Reservations", "GenericResources"),
        key=values.generic_kind,
        is_meant=lambda text, item: text == values.generic_kind(item),
    ),
    Own(name="--log-driver", help="The engine's log driver.", metavar="NAME", write=_write_log_driver),
    Own(
        name="--log-opt",
        help="An option of the log driver.",
        read=read_pair,
        metavar="KEY=VALUE",
        write=_write_log_options,
        is_multiple=True,
    ),
)

_NET: tuple[SpecOption, ...] = (
    Many(
        name="--publish",
        short="-p",
        help="A port, [PUBLISHED:]TARGET[/PROTOCOL], or published=,target=,protocol=,mode=ingress|host.",
        read=values.ports,
        metavar="PORT",
        rm_metavar="TARGET",
        place=("EndpointSpec", "Ports"),
        within={"Mode": "vip"},
        key=values.port_key,
        is_meant=values.is_port,
    ),
    One(
        name="--endpoint-mode",
        help="How the service is reached.",
        read=click.Choice(["vip", "dnsrr"]),
        place=("EndpointSpec", "Mode"),
    ),
    Many(
        name="--network",
        help="A network, or name=,alias=.",
        read=values.network,
        metavar="NETWORK",
        place=(*TASK, "Networks"),
        **named("Target"),
    ),
)


def _force(spec: Json, _: object) -> None:
    task = field_at(spec, (*TASK, "ForceUpdate"))
    task["ForceUpdate"] = int(task.get("ForceUpdate") or 0) + 1


# -- restarts and updates ---------------------------------------------------------------------------------------------

_RESTARTS: tuple[SpecOption, ...] = (
    One(
        name="--restart-condition",
        help="When a task that ended is replaced.",
        read=click.Choice(["none", "on-failure", "any"]),
        place=(*_RESTART, "Condition"),
    ),
    One(name="--restart-delay", help="Before it is.", place=(*_RESTART, "Delay"), **DURATION),
    One(name="--restart-max-attempts", help="0: any number.", place=(*_RESTART, "MaxAttempts"), **NUMBER),
    One(
        name="--restart-window",
        help="In which attempts count  [default: always].",
        place=(*_RESTART, "Window"),
        **DURATION,
    ),
)


def _updates(word: str, field: str, actions: list[str]) -> tuple[SpecOption, ...]:
    # The API takes an object without a parallelism for one that asks for all at once.
    at: dict[str, Any] = {"within": {"Parallelism": defaults.UPDATE_PARALLELISM}}
    return (
        One(
            name=f"--{word}-parallelism",
            help="Tasks at a time; 0: all.",
            place=(field, "Parallelism"),
            **at,
            **NUMBER,
        ),
        One(name=f"--{word}-delay", help="Between them.", place=(field, "Delay"), **at, **DURATION),
        One(
            name=f"--{word}-monitor",
            help="A task that ends within has failed.",
            place=(field, "Monitor"),
            **at,
            **DURATION,
        ),
        One(
            name=f"--{word}-max-failure-ratio",
            help="Of tasks that may fail.",
            read=values.ratio,
            metavar="RATIO",
            place=(field, "MaxFailureRatio"),
            **at,
        ),
        One(
            name=f"--{word}-failure-action",
            help="When more have failed.",
            read=click.Choice(actions),
            place=(field, "FailureAction"),
            **at,
        ),
        One(
            name=f"--{word}-order",
            help="What is first.",
            read=click.Choice(["start-first", "stop-first"]),
            place=(field, "Order"),
            **at,
        ),
        One(
            name=f"--{word}-progress-deadline",
            help="Without progress for so long it has failed; 0: never  [default: 10m].",
            place=(field, "ProgressDeadline"),
            **at,
            **DURATION,
        ),
    )


TABLE: tuple[SpecOption, ...] = (
    One(name="--name", help="Of the service  [default: a random one].", place=("Name",), for_update=False),
    *_AMOUNT,
    *CONTAINER_OPTIONS,
    Pairs(name="--label", short="-l", help="A label of the service.", place=("Labels",)),
    Pairs(name="--container-label", help="A label of the containers.", place=(*CONTAINER, "Labels")),
    *HEALTH_OPTIONS,
    *_PLACES,
    *_NET,
    *_RESTARTS,
    *_updates("update", "UpdateConfig", ["pause", "continue", "rollback"]),
    *_updates("rollback", "RollbackConfig", ["pause", "continue"]),
    Own(
        name="--force",
        help="Replace all tasks, also where nothing has changed.",
        read=None,
        write=_force,
        for_create=False,
    ),
)
"""In the order in which they are applied, and shown."""
