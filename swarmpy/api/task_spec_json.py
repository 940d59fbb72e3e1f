"""``TaskTemplate`` (a task's spec) as Docker's JSON, both ways."""

from __future__ import annotations

from typing import Any

import attrs

from swarmpy.api.container_json import container_spec_from_json, container_spec_to_json
from swarmpy.api.json_fields import Fields, given
from swarmpy.api.resources_json import requirements_from_json, requirements_to_json
from swarmpy.errors import InvalidArgument
from swarmpy.model import defaults
from swarmpy.model.specs import (
    LogDriver,
    NetworkAttachment,
    Placement,
    Platform,
    RestartPolicy,
    TaskSpec,
)


def task_spec_from_json(fields: Fields) -> TaskSpec:
    """The task spec of ``TaskTemplate``. Raises InvalidArgument."""
    fields.refuse("PluginSpec", "NetworkAttachmentSpec")
    runtime = fields.string("Runtime")
    if runtime not in ("", "container"):
        raise InvalidArgument(f"{fields.path_of('Runtime')} {runtime!r} is not supported yet")
    resources = fields.maybe_nested("Resources")
    restart = fields.maybe_nested("RestartPolicy")
    placement = fields.maybe_nested("Placement")
    log_driver = fields.maybe_nested("LogDriver")
    return TaskSpec(
        container=container_spec_from_json(fields.nested("ContainerSpec")),
        resources=requirements_from_json(resources) if resources else None,
        restart=_restart_from_json(restart) if restart else None,
        placement=_placement_from_json(placement) if placement else None,
        log_driver=_log_driver_from_json(log_driver) if log_driver else None,
        networks=networks_from_json(fields),
        force_update=fields.integer("ForceUpdate"),
    )


HIDDEN = "(hidden)"


def concealed(spec: TaskSpec) -> TaskSpec:
    """The spec without the values in which secrets are kept: of the environment, and of options of drivers.

    Their names stay. A spec of this kind is only to be shown.
    """
    container = spec.container
    mounts = tuple(
        attrs.evolve(mount, volume_driver_opts=dict.fromkeys(mount.volume_driver_opts, HIDDEN))
        for mount in container.mounts
    )
    env = tuple(f"{name}={HIDDEN}" if equals else name for name, equals, _ in (e.partition("=") for e in container.env))
    driver = spec.log_driver
    return attrs.evolve(
        spec,
        container=attrs.evolve(container, env=env, mounts=mounts),
        log_driver=None if driver is None else attrs.evolve(driver, options=dict.fromkeys(driver.options, HIDDEN)),
    )


def task_spec_to_json(spec: TaskSpec, *, insert_defaults: bool = False) -> dict[str, Any]:
    """Docker's JSON. With ``insert_defaults`` what was not given is shown as what it means."""
    container = container_spec_to_json(spec.container)
    out: dict[str, Any] = {"ContainerSpec": container}
    if spec.resources is not None:
        out["Resources"] = requirements_to_json(spec.resources)
    restart = _shown_restart(spec) if insert_defaults else spec.restart
    if restart is not None:
        out["RestartPolicy"] = _restart_to_json(restart)
    if spec.placement is not None:
        out["Placement"] = _placement_to_json(spec.placement)
    if spec.networks:
        out["Networks"] = [given(Target=n.target, Aliases=n.aliases) for n in spec.networks]
    if spec.log_driver is not None:
        out["LogDriver"] = given(Name=spec.log_driver.name, Options=spec.log_driver.options)
    out["ForceUpdate"] = spec.force_update
    out["Runtime"] = "container"
    if insert_defaults:
        container.setdefault("StopGracePeriod", defaults.STOP_GRACE_PERIOD_NS)
        container.setdefault("DNSConfig", {})
        out.setdefault("Resources", {})
        out.setdefault("Placement", {})
    return out


def networks_from_json(fields: Fields) -> tuple[NetworkAttachment, ...]:
    """The attachments of a ``Networks`` list (of a task template, or the old one of the service itself)."""
    attachments = []
    for network in fields.nested_list("Networks"):
        network.refuse("DriverOpts", reason="it is for the drivers of overlay networks, which are not available yet")
        attachments.append(NetworkAttachment(target=network.string("Target"), aliases=network.strings("Aliases")))
    return tuple(attachments)


def _restart_from_json(fields: Fields) -> RestartPolicy:
    return RestartPolicy(
        condition=fields.string("Condition") or None,
        delay_ns=fields.maybe_integer("Delay"),
        max_attempts=fields.maybe_integer("MaxAttempts"),
        window_ns=fields.maybe_integer("Window"),
    )


def _shown_restart(spec: TaskSpec) -> RestartPolicy:
    """What the restart policy means; that a window is not bounded is not said, unless it was given."""
    given_window = None if spec.restart is None else spec.restart.window_ns
    return attrs.evolve(defaults.restart_policy(spec), window_ns=given_window)


def _restart_to_json(restart: RestartPolicy) -> dict[str, Any]:
    values = {
        "Condition": restart.condition,
        "Delay": restart.delay_ns,
        "MaxAttempts": restart.max_attempts,
        "Window": restart.window_ns,
    }
    return {name: value for name, value in values.items() if value is not None}


def _placement_from_json(fields: Fields) -> Placement:
    spread = [
        preference.nested("Spread").string("SpreadDescriptor") for preference in fields.nested_list("Preferences")
    ]
    return Placement(
        constraints=fields.strings("Constraints"),
        spread=tuple(spread),
        max_replicas=fields.integer("MaxReplicas"),
        platforms=tuple(_platform_from_json(platform) for platform in fields.nested_list("Platforms")),
    )


def _platform_from_json(fields: Fields) -> Platform:
    return Platform(architecture=fields.string("Architecture"), os=fields.string("OS"))


def _placement_to_json(placement: Placement) -> dict[str, Any]:
    return given(
        Constraints=placement.constraints,
        Preferences=[{"Spread": {"SpreadDescriptor": key}} for key in placement.spread],
        MaxReplicas=placement.max_replicas,
        Platforms=[given(Architecture=each.architecture, OS=each.os) for each in placement.platforms],
    )


def _log_driver_from_json(fields: Fields) -> LogDriver:
    return LogDriver(name=fields.string("Name"), options=fields.string_map("Options"))
