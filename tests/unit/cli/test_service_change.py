"""Services made and changed from the command line: what is sent, what is said, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from swarmpy.cli.main import main

SPEC: dict[str, Any] = {
    "Name": "web",
    "Labels": {"l": "1"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox:1",
            "Env": ["A=1", "B=2"],
            "Mounts": [{"Type": "tmpfs", "Target": "/a"}],
            "Hosts": ["10.0.0.1 db"],
            "Healthcheck": {"Test": ["NONE"]},
        },
        "ForceUpdate": 3,
        "FutureField": {"Kept": True},
    },
    "Mode": {"Replicated": {"Replicas": 1}},
    "EndpointSpec": {"Mode": "vip", "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]},
}


@attrs.frozen
class Outcome:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def swarmpy(daemon: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs ``swarmpy service`` against the daemon."""

    def run(*arguments: str | Path) -> Outcome:
        code = main(["--socket", str(daemon.socket), "service", *map(str, arguments)])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def web(daemon: Any) -> dict[str, Any]:
    """A service that is there."""
    import copy

    daemon.services["w"] = {"ID": "w", "Version": {"Index": 1}, "Spec": copy.deepcopy(SPEC)}
    found: dict[str, Any] = daemon.services["w"]
    return found


def test_a_service_is_created_and_waited_for(swarmpy: Any, daemon: Any) -> None:
    """Its id is said first, for scripts; then how far it has come. What follows the image is the command's own."""
    done = swarmpy("create", "--name", "web", "--replicas", "2", "busybox", "sleep", "-d", "--init=false")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == ["id0", "web  2/2 running"]
    assert daemon.services["id0"]["Spec"] == {
        "Name": "web",
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox:latest", "Args": ["sleep", "-d", "--init=false"]},
        },
        "Mode": {"Replicated": {"Replicas": 2}},
    }
    quiet = swarmpy("create", "-q", "busybox")
    assert (quiet.code, quiet.out) == (0, "id1\n")


def test_waiting_for_a_service_that_cannot_run_ends_with_the_reason(swarmpy: Any, daemon: Any) -> None:
    """As a deployment does: the exit code says try again, and the service stays."""
    daemon.task_state, daemon.task_error = "pending", "no suitable node"
    done = swarmpy("create", "--timeout", "0.3", "--name", "web", "busybox")
    assert done.code == 75
    assert "web  pending: no suitable node" in done.out
    assert "not converged within 0.3 s: web 0/1 running" in done.err
    assert daemon.services


def test_networks_are_kept_and_not_made(swarmpy: Any, daemon: Any, web: dict[str, Any]) -> None:
    """Who asks for one hears that it connects nothing yet, as with a stack file."""
    said = "networks: back are accepted, but overlay networks are not available yet: "
    assert swarmpy("create", "-d", "--no-resolve-image", "--network", "back", "busybox").err.startswith(said)
    assert daemon.services["id1"]["Spec"]["TaskTemplate"]["Networks"] == [{"Target": "back"}]
    assert swarmpy("update", "-d", "--network-add", "back", "web").err.startswith(said)
    assert swarmpy("update", "-d", "--network-rm", "back", "web").err == ""
    assert swarmpy("update", "-d", "--network-add", "host", "web").err == ""


def test_secrets_and_configs_are_referred_to_by_the_id_they_have_now(swarmpy: Any, daemon: Any) -> None:
    """Only their names are given; one that is not there is named before anything is made."""
    daemon.data = {
        "secrets": [{"ID": "s5", "Spec": {"Name": "key"}}],
        "configs": [{"ID": "c5", "Spec": {"Name": "conf"}}],
    }
    done = swarmpy("create", "-d", "--secret", "source=key,target=k,mode=0400", "--config", "conf", "busybox")
    assert done.code == 0
    container = daemon.services["id0"]["Spec"]["TaskTemplate"]["ContainerSpec"]
    file = {"Name": "k", "UID": "0", "GID": "0", "Mode": 0o400}
    assert container["Secrets"] == [{"SecretName": "key", "File": file, "SecretID": "s5"}]
    assert [(c["ConfigID"], c["File"]["Name"]) for c in container["Configs"]] == [("c5", "conf")]
    missing = swarmpy("create", "-d", "--secret", "nope", "busybox")
    assert (missing.code, missing.err.split(":")[1]) == (1, " secret not found")
    assert len(daemon.services) == 1


def test_variables_come_from_files_and_from_here(
    swarmpy: Any, daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name alone is the variable of this environment; what is given by hand is above what is in a file."""
    file = tmp_path / "env"
    file.write_text("# a comment\n\nA=file\nB=file=2\nHERE\nNOWHERE\n")
    monkeypatch.setenv("HERE", "from here")
    swarmpy("create", "-d", "--env-file", file, "-e", "A=hand", "-e", "HERE", "-e", "NOWHERE", "busybox")
    env = daemon.services["id0"]["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]
    assert env == ["A=hand", "B=file=2", "HERE=from here", "NOWHERE"]
    file.write_text("A B=1\n")
    assert "env:1: 'A B' is no name of a variable" in swarmpy("create", "--env-file", file, "x").err
    assert "cannot be read: No such file" in swarmpy("create", "--env-file", tmp_path / "nope", "x").err


@pytest.mark.parametrize(
    ("options", "place", "value"),
    [
        (["--env-add", "A=3", "--env-rm", "B", "--env-add", "C=4"], "TaskTemplate.ContainerSpec.Env", ["A=3", "C=4"]),
        (["--label-add", "m=2", "--label-rm", "l"], "Labels", {"m": "2"}),
        (["--image", "busybox:2"], "TaskTemplate.ContainerSpec.Image", "busybox:2"),
        (["--args", "sleep '1 2'"], "TaskTemplate.ContainerSpec.Args", ["sleep", "1 2"]),
        (["--replicas", "0"], "Mode", {"Replicated": {"Replicas": 0}}),
        (["--force"], "TaskTemplate.ForceUpdate", 4),
        (["--init=false"], "TaskTemplate.ContainerSpec.Init", False),
        (["--publish-rm", "80", "--publish-add", "9090:90"], "EndpointSpec.Ports",
         [{"Protocol": "tcp", "TargetPort": 90, "PublishedPort": 9090, "PublishMode": "ingress"}]),
        (["--mount-add", "type=tmpfs,target=/a,tmpfs-size=1m"], "TaskTemplate.ContainerSpec.Mounts",
         [{"Type": "tmpfs", "Target": "/a", "TmpfsOptions": {"SizeBytes": 2**20}}]),
        (["--host-rm", "db"], "TaskTemplate.ContainerSpec.Hosts", []),
        (["--limit-memory", "64m"], "TaskTemplate.Resources", {"Limits": {"MemoryBytes": 64 * 2**20}}),
        (["--max-unavailable", "25%"], "MaxUnavailable", "25%"),
        (["--max-unavailable", "2"], "MaxUnavailable", 2),
        (["--max-unavailable", "none"], "MaxUnavailable", None),
        (["--update-order", "start-first"], "UpdateConfig", {"Parallelism": 1, "Order": "start-first"}),
        (["--rollback-parallelism", "0"], "RollbackConfig", {"Parallelism": 0}),
        (["--update-progress-deadline", "90s"], "UpdateConfig",
         {"Parallelism": 1, "ProgressDeadline": 90 * 10**9}),
        (["--health-cmd", "true", "--health-interval", "5s"], "TaskTemplate.ContainerSpec.Healthcheck",
         {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9}),
        (["--health-retries", "2"], "TaskTemplate.ContainerSpec.Healthcheck", {"Retries": 2}),
        (["--oom-score-adj", "-500"], "TaskTemplate.ContainerSpec.OomScoreAdj", -500),
        (["--mount-add", "type=bind,src=/s,target=/a,bind-recursive=readonly"], "TaskTemplate.ContainerSpec.Mounts",
         [{"Type": "bind", "Source": "/s", "Target": "/a", "BindOptions": {"ReadOnlyForceRecursive": True}}]),
        (["--log-opt", "max-size=1m"], "TaskTemplate.LogDriver", {"Options": {"max-size": "1m"}}),
    ],
)  # fmt: skip
def test_an_update_changes_what_is_asked_and_nothing_else(
    swarmpy: Any, daemon: Any, web: dict[str, Any], options: list[str], place: str, value: Any
) -> None:
    """All else goes back as it came, also what this version does not know; through conflicts."""
    import copy

    daemon.conflicts = 2
    done = swarmpy("update", "-d", *options, "web")
    assert (done.code, done.out, done.err) == (0, "web\n", "")
    wanted: Any = copy.deepcopy(SPEC)
    inner = wanted
    *outer, last = place.split(".")
    for name in outer:
        inner = inner[name]
    inner[last] = value
    assert web["Spec"] == wanted


def test_what_is_not_there_to_be_removed_is_said(swarmpy: Any, web: dict[str, Any]) -> None:
    """The published port is not the target, which is what is asked for; the update is made all the same."""
    done = swarmpy("update", "-d", "--publish-rm", "8080", "--label-rm", "nope", "--env-add", "C=3", "web")
    assert done.code == 0
    assert done.err.splitlines() == ["--label-rm nope: there is none", "--publish-rm 8080: there is none"]
    assert web["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=1", "B=2", "C=3"]


def test_an_update_that_fails_ends_with_its_reason(swarmpy: Any, daemon: Any, web: dict[str, Any]) -> None:
    """One that is paused, or rolled back by itself, is a failure; one that is rolled back by request is not."""
    daemon.update_statuses = [{"State": "paused", "Message": "update paused due to failure of task x"}]
    done = swarmpy("update", "--image", "busybox:2", "web")
    assert done.code == 1
    assert done.err == "swarmpy: the update of service web has stopped: update paused due to failure of task x\n"
    daemon.update_statuses = [{"State": "rollback_completed", "Message": "rollback completed: update rolled back"}]
    done = swarmpy("update", "--image", "busybox:3", "web")
    assert (done.code, "the update of service web was rolled back: " in done.err) == (1, True)
    daemon.update_statuses = [{"State": "rollback_completed", "Message": "rollback completed", "StartedAt": "2"}]
    done = swarmpy("rollback", "web")
    assert (done.code, done.out.splitlines()[0], done.err) == (0, "web", "")
    assert web["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "busybox:2"
    daemon.update_statuses = [{"State": "rollback_paused", "Message": "rollback paused due to x"}]
    done = swarmpy("update", "--rollback", "web")
    assert (done.code, done.err) == (1, "swarmpy: the rollback of service web has stopped: rollback paused due to x\n")


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["create"], 2, "Missing argument 'IMAGE'"),
        (["create", "UPPER"], 1, "'UPPER' is no image reference"),
        (["create", "--replicas", "-1", "x"], 2, "Invalid value for '--replicas': '-1' is not a number from 0"),
        (["create", "--replicas", "9" * 30, "x"], 2, "Invalid value for '--replicas'"),
        (["create", "--limit-memory", "lots", "x"], 2, "Invalid value for '--limit-memory': 'lots' is not a size"),
        (["create", "--limit-cpu", "nan", "x"], 2, "Invalid value for '--limit-cpu': 'nan' is not a number of cores"),
        (["create", "--update-delay", "5", "x"], 2, "Invalid value for '--update-delay': '5' is not a duration"),
        (["create", "--update-max-failure-ratio", "nan", "x"], 2, "'nan' is not a number from 0 to 1"),
        (["create", "--mode", "many", "x"], 2, "Invalid value for '--mode': 'many' is not one of"),
        (["create", "--mode", "global", "--replicas", "2", "x"], 1, "--replicas: the mode is global"),
        (["create", "--max-concurrent", "2", "x"], 1, "--max-concurrent: the mode is replicated"),
        (["create", "-p", "0:80", "x"], 2, "Invalid value for '-p' / '--publish': '0:80' is not a port"),
        (["create", "-p", "10.0.0.1:80:80", "x"], 2, "a port is published on all addresses"),
        (["create", "-p", "1-9999", "x"], 2, "more than 4096 ports"),
        (["create", "-p", "published=1,target=2,way=in", "x"], 2, "unknown field 'way': mode, protocol"),
        (["create", "--mount", "type=bind,target=/a", "x"], 2, "a bind mount needs a source"),
        (["create", "--max-unavailable", "1.5", "x"], 2, "'1.5' is neither a number of tasks"),
        (["create", "--oom-score-adj", "1001", "x"], 2, "'1001' is not a number from -1000 to 1000"),
        (["create", "--generic-resource", "gpu", "x"], 2, "'gpu' is not KIND=COUNT"),
        (["create", "--mount", "source=a,target=/a,bind-recursive=x", "x"], 2, "does not go with the type volume"),
        (["create", "--mount", "source=a", "x"], 2, "a mount needs a target"),
        (["create", "--mount", "type=tmpfs,target=/a,volume-nocopy", "x"], 2, "does not go with the type tmpfs"),
        (["create", "--mount", 'type=tmpfs,"target=/a', "x"], 2, "cannot be read"),
        (["create", "--secret", "target=a", "x"], 2, "no source given"),
        (["create", "--secret", "source=a,mode=999", "x"], 2, "mode=999 is no octal number"),
        (["create", "--ulimit", "nofile=a", "x"], 2, "'nofile=a' is not NAME=SOFT[:HARD]"),
        (["create", "--host", "db", "x"], 2, "'db' is not HOST:IP"),
        (["create", "--entrypoint", "sh '", "x"], 2, "unclosed ' quote"),
        (["create", "--no-healthcheck", "--health-cmd", "a", "x"], 2, "--no-healthcheck and --health-cmd exclude"),
        (["update", "--name", "y", "web"], 2, "No such option '--name'"),
        (["update", "--rollback", "--image", "y", "web"], 2, "--image has no place"),
        (["update", "--publish-rm", "x", "web"], 1, "--publish-rm: 'x' is not a port"),
        (["update", "--label-add", "=1", "web"], 2, "'=1' is not KEY=VALUE"),
        (["update", "nope"], 1, "service nope not found"),
        (["rollback"], 2, "Missing argument 'SERVICE'"),
    ],
)  # fmt: skip
def test_bad_options_are_named_in_one_line(
    swarmpy: Any, daemon: Any, web: dict[str, Any], options: list[str], code: int, reason: str
) -> None:
    """Nothing is written, and the line says which option and what would be right."""
    done = swarmpy(*options)
    assert done.code == code
    assert reason in " ".join(done.err.split())
    assert web["Version"] == {"Index": 1}
    assert list(daemon.services) == ["w"]
