"""``ContainerSpec`` as Docker's JSON, both ways."""

from __future__ import annotations

from typing import Any

from swarmpy.api.json_fields import Fields, given
from swarmpy.api.privileges_json import privileges_from_json, privileges_to_json
from swarmpy.api.reference_json import configs_from_json, configs_to_json, secrets_from_json, secrets_to_json
from swarmpy.errors import InvalidArgument
from swarmpy.model.grammar import shown
from swarmpy.model.specs import ContainerSpec, Healthcheck, Mount, Ulimit

_LEAST_OOM_SCORE = -1000
_MOST_OOM_SCORE = 1000


def container_spec_from_json(fields: Fields) -> ContainerSpec:
    """The container spec of ``TaskTemplate.ContainerSpec``. Raises InvalidArgument."""
    isolation = fields.string("Isolation")
    if isolation not in ("", "default"):
        raise InvalidArgument(
            f"{fields.path_of('Isolation')}: {shown(isolation)} is not supported; linux has only default"
        )
    dns = fields.nested("DNSConfig")
    health = fields.maybe_nested("Healthcheck")
    return ContainerSpec(
        image=fields.string("Image"),
        labels=fields.string_map("Labels"),
        command=fields.strings("Command"),
        args=fields.strings("Args"),
        env=fields.strings("Env"),
        hostname=fields.string("Hostname"),
        dir=fields.string("Dir"),
        user=fields.string("User"),
        groups=fields.strings("Groups"),
        tty=fields.boolean("TTY"),
        open_stdin=fields.boolean("OpenStdin"),
        read_only=fields.boolean("ReadOnly"),
        init=fields.maybe_boolean("Init"),
        stop_signal=fields.string("StopSignal"),
        stop_grace_period_ns=fields.maybe_integer("StopGracePeriod"),
        healthcheck=_healthcheck_from_json(health) if health else None,
        mounts=tuple(_mount_from_json(mount) for mount in fields.nested_list("Mounts")),
        hosts=fields.strings("Hosts"),
        dns_nameservers=dns.strings("Nameservers"),
        dns_search=dns.strings("Search"),
        dns_options=dns.strings("Options"),
        capability_add=fields.strings("CapabilityAdd"),
        capability_drop=fields.strings("CapabilityDrop"),
        sysctls=fields.string_map("Sysctls"),
        ulimits=tuple(_ulimit_from_json(ulimit) for ulimit in fields.nested_list("Ulimits")),
        privileges=privileges_from_json(fields.nested("Privileges")),
        oom_score_adj=fields.integer("OomScoreAdj", least=_LEAST_OOM_SCORE, most=_MOST_OOM_SCORE),
        secrets=secrets_from_json(fields),
        configs=configs_from_json(fields),
    )


def container_spec_to_json(spec: ContainerSpec) -> dict[str, Any]:
    """Docker's JSON: what is empty stays out, ``Isolation`` is always there."""
    dns = given(Nameservers=spec.dns_nameservers, Search=spec.dns_search, Options=spec.dns_options)
    out = given(
        Image=spec.image,
        Labels=spec.labels,
        Command=spec.command,
        Args=spec.args,
        Hostname=spec.hostname,
        Env=spec.env,
        Dir=spec.dir,
        User=spec.user,
        Groups=spec.groups,
        Privileges=privileges_to_json(spec.privileges),
        StopSignal=spec.stop_signal,
        TTY=spec.tty,
        OpenStdin=spec.open_stdin,
        ReadOnly=spec.read_only,
        Mounts=[_mount_to_json(mount) for mount in spec.mounts],
        Hosts=spec.hosts,
        DNSConfig=dns,
        Sysctls=spec.sysctls,
        CapabilityAdd=spec.capability_add,
        CapabilityDrop=spec.capability_drop,
        Ulimits=[{"Name": u.name, "Hard": u.hard, "Soft": u.soft} for u in spec.ulimits],
        OomScoreAdj=spec.oom_score_adj,
        Secrets=secrets_to_json(spec.secrets),
        Configs=configs_to_json(spec.configs),
    )
    if spec.init is not None:
        out["Init"] = spec.init
    if spec.stop_grace_period_ns is not None:
        out["StopGracePeriod"] = spec.stop_grace_period_ns
    if spec.healthcheck is not None:
        out["Healthcheck"] = _healthcheck_to_json(spec.healthcheck)
    out["Isolation"] = "default"
    return out


def _healthcheck_from_json(fields: Fields) -> Healthcheck:
    return Healthcheck(
        test=fields.strings("Test"),
        interval_ns=fields.integer("Interval"),
        timeout_ns=fields.integer("Timeout"),
        start_period_ns=fields.integer("StartPeriod"),
        retries=fields.integer("Retries"),
        start_interval_ns=fields.integer("StartInterval"),
    )


def _healthcheck_to_json(health: Healthcheck) -> dict[str, Any]:
    return given(
        Test=health.test,
        Interval=health.interval_ns,
        Timeout=health.timeout_ns,
        StartPeriod=health.start_period_ns,
        StartInterval=health.start_interval_ns,
        Retries=health.retries,
    )


def _mount_from_json(fields: Fields) -> Mount:
    bind, volume, tmpfs = (fields.nested(name) for name in ("BindOptions", "VolumeOptions", "TmpfsOptions"))
    fields.refuse("ImageOptions", "ClusterOptions")
    tmpfs.refuse("Options")
    driver = volume.nested("DriverConfig")
    return Mount(
        type=fields.string("Type") or "volume",
        source=fields.string("Source"),
        target=fields.string("Target"),
        read_only=fields.boolean("ReadOnly"),
        bind_propagation=bind.string("Propagation"),
        volume_no_copy=volume.boolean("NoCopy"),
        volume_labels=volume.string_map("Labels"),
        volume_driver=driver.string("Name"),
        volume_driver_opts=driver.string_map("Options"),
        tmpfs_size_bytes=tmpfs.integer("SizeBytes"),
        tmpfs_mode=tmpfs.integer("Mode", most=2**32 - 1),
        consistency=fields.string("Consistency"),
        bind_non_recursive=bind.boolean("NonRecursive"),
        bind_create_mountpoint=bind.boolean("CreateMountpoint"),
        bind_read_only_non_recursive=bind.boolean("ReadOnlyNonRecursive"),
        bind_read_only_force_recursive=bind.boolean("ReadOnlyForceRecursive"),
        volume_subpath=volume.string("Subpath"),
    )


def _mount_to_json(mount: Mount) -> dict[str, Any]:
    driver = given(Name=mount.volume_driver, Options=mount.volume_driver_opts)
    bind = given(
        Propagation=mount.bind_propagation,
        NonRecursive=mount.bind_non_recursive,
        CreateMountpoint=mount.bind_create_mountpoint,
        ReadOnlyNonRecursive=mount.bind_read_only_non_recursive,
        ReadOnlyForceRecursive=mount.bind_read_only_force_recursive,
    )
    volume = given(
        NoCopy=mount.volume_no_copy, Labels=mount.volume_labels, DriverConfig=driver, Subpath=mount.volume_subpath
    )
    return given(
        Type=mount.type,
        Source=mount.source,
        Target=mount.target,
        ReadOnly=mount.read_only,
        Consistency=mount.consistency,
        BindOptions=bind,
        VolumeOptions=volume,
        TmpfsOptions=given(SizeBytes=mount.tmpfs_size_bytes, Mode=mount.tmpfs_mode),
    )


def _ulimit_from_json(fields: Fields) -> Ulimit:
    return Ulimit(
        name=fields.string("Name"),
        soft=fields.integer("Soft", least=-1),
        hard=fields.integer("Hard", least=-1),
    )
