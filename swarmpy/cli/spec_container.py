"""The options of ``swarmpy service create`` and ``update`` that are about the container and its health. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmpy.cli import spec_values as values
from swarmpy.cli.spec_options import Flag, Json, Many, One, Own, Pairs, Place, SpecOption, field_at
from swarmpy.compose import shortforms, units

TASK: Place = ("TaskTemplate",)
CONTAINER: Place = (*TASK, "ContainerSpec")
_HEALTH: Place = (*CONTAINER, "Healthcheck")
_DNS: Place = (*CONTAINER, "DNSConfig")

DURATION: dict[str, Any] = {"read": units.parse_duration, "metavar": "DURATION"}
NUMBER: dict[str, Any] = {"read": values.integer, "metavar": "NUMBER"}
_NO_HEALTHCHECK = "NONE"


def named(field: str) -> dict[str, Any]:
    """Of items that are known by a field."""
    return {"key": lambda item: item.get(field), "is_meant": lambda text, item: text == item.get(field)}


# -- the container ----------------------------------------------------------------------------------------------------


def _add_capabilities(spec: Json, names: tuple[str, ...]) -> None:
    _move_capabilities(spec, names, to="CapabilityAdd", away="CapabilityDrop")


def _drop_capabilities(spec: Json, names: tuple[str, ...]) -> None:
    _move_capabilities(spec, names, to="CapabilityDrop", away="CapabilityAdd")


def _move_capabilities(spec: Json, names: tuple[str, ...], *, to: str, away: str) -> None:
    # To give what was taken, or take what was given, is to say nothing of it any more, as with the docker command.
    container = field_at(spec, (*CONTAINER, to))
    there = container.get(away) or []
    container[to] = sorted({*(container.get(to) or ()), *names}.difference(there))
    container[away] = [name for name in there if name not in names]


CONTAINER_OPTIONS: tuple[SpecOption, ...] = (
    Own(
        name="--image",
        help="The image.",
        read=shortforms.image_reference,
        metavar="IMAGE",
        write=lambda spec, image: field_at(spec, (*CONTAINER, "Image")).update(Image=image),
        for_create=False,
    ),
    Own(
        name="--args",
        help="The arguments of the container's command.",
        read=values.words,
        metavar="WORDS",
        write=lambda spec, words: field_at(spec, (*CONTAINER, "Args")).update(Args=words),
        for_create=False,
    ),
    One(
        name="--entrypoint",
        help="Instead of the image's.",
        read=values.words,
        metavar="WORDS",
        place=(*CONTAINER, "Command"),
    ),
    Many(
        name="--env-file",
        help="Variables, a line each.",
        read=values.variables_of_file,
        metavar="FILE",
        place=(*CONTAINER, "Env"),
        key=values.variable_name,
        for_update=False,
    ),
    Many(
        name="--env",
        short="-e",
        help="A variable of the environment; without a value the one from here.",
        read=values.variable,
        metavar="NAME=VALUE",
        rm_metavar="NAME",
        place=(*CONTAINER, "Env"),
        key=values.variable_name,
        is_meant=lambda text, item: text == values.variable_name(item),
    ),
    Many(
        name="--mount",
        help="A mount: type=bind|volume|tmpfs,source=,target=,readonly and options of the type.",
        read=values.mount,
        metavar="FIELDS",
        rm_metavar="TARGET",
        place=(*CONTAINER, "Mounts"),
        **named("Target"),
    ),
    *(
        Many(
            name=f"--{word}",
            help=f"A {word}, or source=NAME,target=,uid=,gid=,mode=.",
            read=read,
            metavar=word.upper(),
            place=(*CONTAINER, f"{word.capitalize()}s"),
            **{**named(f"{word.capitalize()}Name"), "key": values.file_key},
        )
        for word, read in (("secret", values.secret), ("config", values.config))
    ),
    One(name="--hostname", help="Of the container.", place=(*CONTAINER, "Hostname"), metavar="NAME"),
    One(name="--user", short="-u", help="USER[:GROUP].", place=(*CONTAINER, "User"), metavar="USER"),
    One(name="--workdir", short="-w", help="Working directory.", place=(*CONTAINER, "Dir"), metavar="DIR"),
    Many(
        name="--group",
        help="A supplementary group.",
        read=values.one,
        metavar="GROUP",
        place=(*CONTAINER, "Groups"),
    ),
    Flag(name="--init", help="An init process that passes signals on and reaps.", place=(*CONTAINER, "Init")),
    Flag(name="--tty", short="-t", help="A terminal.", place=(*CONTAINER, "TTY")),
    Flag(name="--read-only", help="The root file system.", place=(*CONTAINER, "ReadOnly")),
    One(name="--stop-signal", help="Asks the task to stop.", place=(*CONTAINER, "StopSignal"), metavar="SIGNAL"),
    One(
        name="--stop-grace-period",
        help="Between asking and killing.",
        place=(*CONTAINER, "StopGracePeriod"),
        **DURATION,
    ),
    Many(
        name="--host",
        help="An entry of the hosts file.",
        read=values.host,
        metavar="HOST:IP",
        place=(*CONTAINER, "Hosts"),
        is_meant=values.is_host,
    ),
    *(
        Many(name=name, help=text, read=values.one, metavar=metavar, place=(*_DNS, field))
        for name, text, metavar, field in (
            ("--dns", "A name server.", "IP", "Nameservers"),
            ("--dns-option", "An option of resolv.conf.", "OPTION", "Options"),
            ("--dns-search", "A domain in which names are looked for.", "DOMAIN", "Search"),
        )
    ),
    *(
        Own(
            name=name,
            help=text,
            read=shortforms.capability,
            metavar="CAPABILITY",
            write=write,
            is_multiple=True,
        )
        for name, text, write in (
            ("--cap-add", "Give a capability.", _add_capabilities),
            ("--cap-drop", "Take a capability.", _drop_capabilities),
        )
    ),
    One(
        name="--oom-score-adj",
        help="Who is killed first where memory is short, -1000 to 1000.",
        read=values.oom_score,
        metavar="NUMBER",
        place=(*CONTAINER, "OomScoreAdj"),
    ),
    Pairs(name="--sysctl", help="A kernel parameter.", place=(*CONTAINER, "Sysctls")),
    Many(
        name="--ulimit",
        help="A limit of processes.",
        read=values.ulimit,
        metavar="NAME=SOFT[:HARD]",
        rm_metavar="NAME",
        place=(*CONTAINER, "Ulimits"),
        **named("Name"),
    ),
)


# -- health -----------------------------------------------------------------------------------------------------------


def _health(spec: Json) -> Json:
    """The health check that is to be. Who asks for one does not want none any more."""
    health = field_at(spec, (*_HEALTH, "Test"))
    if health.get("Test") == [_NO_HEALTHCHECK]:
        del health["Test"]
    return health


def _write_health_cmd(spec: Json, command: str) -> None:
    # Nothing is the image's own.
    _health(spec)["Test"] = ["CMD-SHELL", command] if command else []


def _write_no_healthcheck(spec: Json, _: object) -> None:
    field_at(spec, _HEALTH)["Healthcheck"] = {"Test": [_NO_HEALTHCHECK]}


def _health_time(name: str, text: str, field: str, kind: Mapping[str, Any]) -> Own:
    return Own(name=name, help=text, write=lambda spec, value: _health(spec).update({field: value}), **kind)


HEALTH_OPTIONS: tuple[SpecOption, ...] = (
    Own(name="--no-healthcheck", help="None, also where the image has one.", read=None, write=_write_no_healthcheck),
    Own(name="--health-cmd", help="Asks whether the task is well.", metavar="COMMAND", write=_write_health_cmd),
    _health_time("--health-interval", "Between two checks.", "Interval", DURATION),
    _health_time("--health-timeout", "Of a check.", "Timeout", DURATION),
    _health_time("--health-retries", "Failures in a row: unwell.", "Retries", NUMBER),
    _health_time("--health-start-period", "In which failures do not count.", "StartPeriod", DURATION),
    _health_time("--health-start-interval", "Between two checks in it.", "StartInterval", DURATION),
)
