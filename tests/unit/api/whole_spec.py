"""A service spec as Docker's JSON with every field that there is, none of them at its default."""

from __future__ import annotations

from typing import Any

SECOND = 1_000_000_000

CONTAINER: dict[str, Any] = {
    "Image": "shop/web:7",
    "Labels": {"tier": "front"},
    "Command": ["/bin/web"],
    "Args": ["--slot", "{{.Task.Slot}}"],
    "Hostname": "{{.Node.Hostname}}-{{.Task.Slot}}",
    "Env": ["A=1", "NODE={{.Node.ID}}"],
    "Dir": "/srv",
    "User": "1000:1000",
    "Groups": ["audio"],
    "Privileges": {
        "NoNewPrivileges": True,
        "SELinuxContext": {"Disable": True, "User": "u", "Role": "r", "Type": "t", "Level": "s0:c1,c2"},
        "Seccomp": {"Mode": "custom", "Profile": "e30="},
        "AppArmor": {"Mode": "disabled"},
    },
    "StopSignal": "SIGINT",
    "TTY": True,
    "OpenStdin": True,
    "ReadOnly": True,
    "Mounts": [
        {
            "Type": "bind",
            "Source": "/data",
            "Target": "/data",
            "ReadOnly": True,
            "Consistency": "cached",
            "BindOptions": {
                "Propagation": "rslave",
                "NonRecursive": True,
                "CreateMountpoint": True,
                "ReadOnlyNonRecursive": True,
                "ReadOnlyForceRecursive": True,
            },
        },
        {
            "Type": "volume",
            "Source": "cache",
            "Target": "/cache",
            "VolumeOptions": {
                "NoCopy": True,
                "Labels": {"slot": "{{.Task.Slot}}"},
                "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs"}},
                "Subpath": "a/b",
            },
        },
        {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}},
    ],
    "Hosts": ["10.0.0.1 db"],
    "DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["local"], "Options": ["ndots:1"]},
    "Sysctls": {"net.core.somaxconn": "1024"},
    "CapabilityAdd": ["CAP_NET_ADMIN"],
    "CapabilityDrop": ["CAP_CHOWN"],
    "Ulimits": [{"Name": "nofile", "Hard": 200, "Soft": 100}],
    "OomScoreAdj": -5,
    "Secrets": [{"File": {"Name": "s", "UID": "1", "GID": "2", "Mode": 256}, "SecretID": "id-s", "SecretName": "s"}],
    "Configs": [{"File": {"Name": "/c", "UID": "1", "GID": "2", "Mode": 256}, "ConfigID": "id-c", "ConfigName": "c"}],
    "Init": True,
    "StopGracePeriod": 5 * SECOND,
    "Healthcheck": {
        "Test": ["CMD", "true"],
        "Interval": SECOND,
        "Timeout": 2 * SECOND,
        "StartPeriod": 3 * SECOND,
        "StartInterval": 4 * SECOND,
        "Retries": 5,
    },
    "Isolation": "default",
}
UPDATE: dict[str, Any] = {
    "Parallelism": 2,
    "Delay": SECOND,
    "FailureAction": "continue",
    "Monitor": 2 * SECOND,
    "MaxFailureRatio": 0.25,
    "Order": "start-first",
    "ProgressDeadline": 3 * SECOND,
}
WHOLE: dict[str, Any] = {
    "Name": "web",
    "Labels": {"a": "b"},
    "TaskTemplate": {
        "ContainerSpec": CONTAINER,
        "Resources": {
            "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 1 << 26, "Pids": 10},
            "Reservations": {
                "NanoCPUs": 100_000_000,
                "MemoryBytes": 1 << 25,
                "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}],
            },
        },
        "RestartPolicy": {"Condition": "on-failure", "Delay": SECOND, "MaxAttempts": 3, "Window": 2 * SECOND},
        "Placement": {
            "Constraints": ["node.platform.os==linux"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
            "MaxReplicas": 3,
            "Platforms": [{"Architecture": "x86_64", "OS": "plan9"}],
        },
        "Networks": [{"Target": "back", "Aliases": ["web"]}],
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
        "ForceUpdate": 1,
        "Runtime": "container",
    },
    "Mode": {"Replicated": {"Replicas": 2}},
    "UpdateConfig": UPDATE,
    "RollbackConfig": UPDATE,
    "MaxUnavailable": "25%",
    "EndpointSpec": {
        "Mode": "dnsrr",
        "Ports": [{"Name": "p", "Protocol": "udp", "TargetPort": 53, "PublishedPort": 5353, "PublishMode": "host"}],
    },
}
