"""Where the files of secrets and configs go, whose they are, and what is in them."""

from __future__ import annotations

from typing import Any

import pytest
from secret_tasks import PLANTED, config, content, needs, secret, task_with

from swarmpy.errors import TaskRejected
from swarmpy.model.data_checks import MAX_CONFIG_BYTES, MAX_SECRET_BYTES
from swarmpy.model.ids import NodeId
from swarmpy.model.specs import ContainerSpec
from swarmpy.model.template import NodeFacts
from swarmpy.runtime.container_config import create_config
from swarmpy.runtime.task_files import container_places, process_places, task_files

NODE = NodeFacts(id=NodeId("node1"), hostname="host1", address="10.0.0.7")


def container(*references: Any) -> ContainerSpec:
    """With these references."""
    return task_with(*references).spec.container


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        (secret("s"), "/run/secrets/s"),
        (secret("s", "other.txt"), "/run/secrets/other.txt"),
        (secret("s", "a/b.txt"), "/run/secrets/a/b.txt"),
        (secret("s", "a/./b//c"), "/run/secrets/a/b/c"),
        (secret("s", "/etc/app/key"), "/etc/app/key"),
        (secret("s", "//etc//key"), "/etc/key"),
        (config("c"), "/c"),
        (config("c", "etc/c.conf"), "/etc/c.conf"),
        (config("c", "/etc/nginx/c.conf"), "/etc/nginx/c.conf"),
    ],
)
def test_where_a_container_has_it(reference: Any, target: str) -> None:
    """Relative targets have a base each, absolute ones are taken as they are."""
    [place] = container_places(container(reference))
    assert place.target == target
    assert (place.uid, place.gid, place.mode) == (0, 0, 0o444)


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        (secret("s"), "secrets/s"),
        (secret("s", "a/b.txt"), "secrets/a/b.txt"),
        (secret("s", "/etc/app/key"), "secrets/key"),
        (config("c"), "configs/c"),
        (config("c", "/etc/nginx/c.conf"), "configs/c.conf"),
    ],
)
def test_where_a_process_has_it(reference: Any, path: str) -> None:
    """Below its directories; of an absolute target the last word counts."""
    [place] = process_places(container(reference))
    assert place.path == path


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        ([secret("s", "")], "invalid target file name"),
        ([secret("s", ".")], "no name of a file"),
        ([secret("s", "/")], "no name of a file"),
        ([secret("s", "../x")], "write it without"),
        ([config("c", "/a/../../x")], "write it without"),
        ([secret("s", "a\x00b")], "invalid target of s"),
        ([secret("s", "a\nb")], "invalid target of s"),
        ([secret("s", "x" * 5000)], "more than 4095 bytes"),
        ([secret("s", uid="root")], "invalid target of s: UID: 'root' is not the number"),
        ([secret("s", gid="")], "is not the number"),
        ([secret("s", uid="-1")], "is not the number"),
        ([secret("s", uid="4294967295")], "is not the number"),
        ([secret("s", uid="9" * 5000)], "is not the number"),
        ([secret("s", uid="²")], "is not the number"),
        ([secret("s", mode=0o10000)], "mode 10000 is not between"),
        ([secret("s", mode=-1)], "mode -1 is not between"),
        ([secret("s"), secret("t", "s")], "'s' and 't' have a conflicting target"),
        ([secret("s", "/x"), config("c", "x")], "'s' and 'c' have a conflicting target"),
        ([secret("s", "a"), secret("t", "a/b")], "secret t has a target below that of secret s, which is a file"),
    ],
)
def test_what_cannot_be_is_refused(references: list[Any], reason: str) -> None:
    """On the node again, whatever a manager let through, before anything is made of it."""
    with pytest.raises(TaskRejected, match=reason):
        create_config(task_with(*references), NODE)


def test_two_files_of_one_name_are_too_many_for_a_process() -> None:
    """Which has no place but the one directory."""
    with pytest.raises(TaskRejected, match="have the same target 'secrets/key'"):
        process_places(container(secret("s", "/a/key"), secret("t", "/b/key")))


def test_a_file_has_its_owner_and_mode() -> None:
    """As asked."""
    [place] = container_places(container(secret("s", uid="1000", gid="50", mode=0o400)))
    assert (place.uid, place.gid, place.mode) == (1000, 50, 0o400)


def test_contents() -> None:
    """Data as it is, or expanded for this very task where it is a template."""
    task = task_with(
        secret("plain"), secret("made"), config("conf", "/etc/x.conf"), env=("A=b=c", "ALONE"), hostname="h"
    )
    template = '{{.Service.Name}}.{{.Task.Slot}}@{{.Node.Hostname}} {{env "A"}} {{secret "plain"}} '
    files = task_files(
        container_places(task.spec.container),
        needs(
            {"plain": content("{{.Task.ID}}"), "made": content(template, "golang")},
            {"conf": content('{{config "/etc/x.conf"}}!', "golang")},
        ),
        task=task,
        container=task.spec.container,
        node=NODE,
    )
    assert [file.data for file in files] == [
        b"{{.Task.ID}}",
        b"web.3@host1 b=c {{.Task.ID}} ",
        b'{{config "/etc/x.conf"}}!!',
    ]
    assert "Task.ID" not in repr(files)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"s": content(f"{PLANTED}\n{{{{.Nope}}}}{PLANTED}", "golang")}, "secret s: line 2: a placeholder"),
        ({"s": content(PLANTED, "jinja")}, "secret s: templating 'jinja' is unknown: use golang"),
        ({}, "secret s: its data is not at hand on this node"),
        (
            {"s": content('{{secret "s"}}' * 2 + "x" * (MAX_SECRET_BYTES // 2), "golang")},
            f"secret s: with its placeholders replaced it has more than {MAX_SECRET_BYTES} bytes",
        ),
    ],
)
def test_data_that_is_no_good(given: Any, reason: str) -> None:
    """The secret and the reason are named, the data is not."""
    task = task_with(secret("s"))
    with pytest.raises(TaskRejected, match=reason) as caught:
        task_files(
            container_places(task.spec.container), needs(given), task=task, container=task.spec.container, node=NODE
        )
    assert PLANTED not in str(caught.value)


def test_a_config_may_become_larger() -> None:
    """Its own bound holds for it."""
    task = task_with(config("c"))
    data = content('{{config "c"}}' + "x" * (MAX_CONFIG_BYTES // 2 - 20), "golang")
    [file] = task_files(
        container_places(task.spec.container),
        needs({}, {"c": data}),
        task=task,
        container=task.spec.container,
        node=NODE,
    )
    assert MAX_SECRET_BYTES < len(file.data) <= MAX_CONFIG_BYTES


def test_an_engine_is_told_of_paths_only() -> None:
    """Each file is a mount of its own, to be read only, beside those of the spec."""
    task = task_with(secret("s", uid="7"), config("c", "/etc/c.conf"), secret("t", "/etc/t"))
    config_json = create_config(task, NODE, "/run/x/node1/task1")
    mounts = config_json["HostConfig"]["Mounts"]
    assert [(mount["Source"], mount["Target"]) for mount in mounts] == [
        ("/run/x/node1/task1/secrets/0", "/run/secrets/s"),
        ("/run/x/node1/task1/secrets/1", "/etc/t"),
        ("/run/x/node1/task1/configs/2", "/etc/c.conf"),
    ]
    assert all(mount["Type"] == "bind" and mount["ReadOnly"] for mount in mounts)
    assert not any("SWARMPY" in variable for variable in config_json["Env"])
