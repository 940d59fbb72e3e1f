"""What a stack file may hold, and what is said about what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmpy.compose.load import load
from swarmpy.errors import ComposeError


def error_of(directory: Path, text: str) -> str:
    file = directory / "f.yml"
    file.write_text(text)
    with pytest.raises(ComposeError) as caught:
        load([file], {})
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(str(directory) + "/")


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("imge: a", 'f.yml:4: services.web: unknown key "imge" (did you mean "image"?)'),
        ("zzzz: a", 'f.yml:4: services.web: unknown key "zzzz"'),
        ("extends: {service: a}", 'f.yml:4: services.web: key "extends" is not supported: write the service out'),
        (
            "mem_limit: 1g",
            'f.yml:4: services.web: key "mem_limit" is not supported: use deploy.resources.limits.memory',
        ),
        ("profiles: [a]", 'f.yml:4: services.web: key "profiles" is not supported: it is a feature of'),
        (
            "environment: {A: true}",
            "f.yml:4: services.web.environment.A: must be a string, number or null, not the boo",
        ),
        ("environment: 3", "f.yml:4: services.web.environment: must be a list or a mapping, not the number 3"),
        ("ports:", "f.yml:4: services.web.ports: must be a list, not empty"),
        ("ports: ['99999:80']", "f.yml:4: services.web.ports[0]: '99999:80' is not a port: '99999' is no number"),
        (
            "ports: [{target: '80'}]",
            "f.yml:4: services.web.ports[0].target: must be a whole number, not the string '80'",
        ),
        ("ports: ['80', '80']", "f.yml:4: services.web.ports[1]: '80' is in the list twice"),
        ("command: [a, 1]", "f.yml:4: services.web.command[1]: must be a string, not the number 1: put it in quotes"),
        ('command: "a \'b"', "f.yml:4: services.web.command: \"a 'b\" has an unclosed ' quote"),
        ("depends_on: {db: {condition: x}}", "f.yml:4: services.web.depends_on: must be a list, not a mapping"),
        ("stop_grace_period: 10", "f.yml:4: services.web.stop_grace_period: must be a string, not the number 10"),
        ("stop_grace_period: '10'", "f.yml:4: services.web.stop_grace_period: '10' is not a duration"),
        ("tty: 'yes'", "f.yml:4: services.web.tty: must be true or false, not the string 'yes'"),
        ("deploy: {replicas: -1}", "f.yml:4: services.web.deploy.replicas: must be from 0 to"),
        (
            "deploy: {replicas: 1.5}",
            "f.yml:4: services.web.deploy.replicas: must be a whole number, not the number 1.5",
        ),
        (
            "deploy: {resources: {limits: {cpus: 0.5}}}",
            "f.yml:4: services.web.deploy.resources.limits.cpus: must be a str",
        ),
        (
            "deploy: {update_config: {order: x}}",
            "f.yml:4: services.web.deploy.update_config.order: must be start-first",
        ),
        ("volumes: [':/a']", "f.yml:4: services.web.volumes[0]: ':/a' is not a volume: an empty section"),
        ("volumes: [{target: /a}]", "f.yml:4: services.web.volumes[0]: the key 'type' is missing"),
        ("ulimits: {nofile: {soft: 1}}", "f.yml:4: services.web.ulimits.nofile: the key 'hard' is missing"),
    ],
)
def test_faults_in_a_service(tmp_path: Path, service: str, message: str) -> None:
    """Each fault is one line with file, line, key, what is wrong and, where known, what to do."""
    text = f"services:\n  web:\n    image: a\n    {service}\n"
    assert error_of(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 3.8\n", 'f.yml:1: version: must be a string: write version: "3.8" or leave the key out'),
        ("version: '2'\n", "f.yml:1: version: '2' is not supported: stack files are of version 3.0 to 3.13"),
        ("version: '3.14'\n", "f.yml:1: version: '3.14' is not supported"),
        ("name: a\n", 'f.yml:1: key "name" is not supported: the name of the stack is given on the command line'),
        ("service: {}\n", 'f.yml:1: unknown key "service" (did you mean "services"?)'),
        ("services:\n", "f.yml:1: services: must be a mapping, not empty"),
        ("services: []\n", "f.yml:1: services: must be a mapping, not a list"),
        ("services:\n  a b: {image: a}\n", "f.yml:2: services.a b: a name is made of letters, digits"),
        ("services:\n  web:\n", "f.yml:2: services.web: must be a mapping, not empty"),
        (
            "volumes:\n  v:\n    external: true\n    driver: x\n",
            "f.yml:4: volumes.v.driver: an external entry is made elsewhere: remove either external or driver",
        ),
    ],
)
def test_faults_at_the_top(tmp_path: Path, text: str, message: str) -> None:
    """The top of the file is checked as closely."""
    assert error_of(tmp_path, text).startswith(message)


def test_everything_known_is_accepted(tmp_path: Path) -> None:
    """A file that uses the whole of the format, extension keys included, is loaded."""
    file = tmp_path / "f.yml"
    (tmp_path / "s").write_text("data")
    file.write_text(
        """
version: "3.8"
x-common: &common {image: "a:1", x-note: 1}
services:
  web:
    <<: *common
    build: {context: .}
    command: sh -c "echo 'a b'"
    entrypoint: [/bin/a]
    environment: [A=1, B]
    ports: ["80:80", {target: 81, published: 81, protocol: udp, mode: host}, 82]
    volumes: ["v:/v", {type: bind, source: ., target: /b, bind: {propagation: rshared}}]
    networks: {n: {aliases: [x]}}
    secrets: [s, {source: s, target: t, uid: "0", mode: 0440}]
    healthcheck: {test: a, interval: 1s, timeout: 1s, retries: 3, start_period: 1s, start_interval: 1s}
    logging: {driver: json-file, options: {max-size: 10m, max-file: 3}}
    sysctls: {net.core.somaxconn: 1024}
    ulimits: {nproc: 65535, nofile: {soft: 1, hard: 2}}
    extra_hosts: ["a:1.2.3.4"]
    dns: 1.1.1.1
    tmpfs: [/run]
    expose: [80, "81"]
    depends_on: [web]
    deploy:
      mode: replicated
      replicas: 2
      labels: {a: b}
      placement: {constraints: [node.role == worker], preferences: [{spread: node.labels.z}], max_replicas_per_node: 1}
      resources: {limits: {cpus: "0.5", memory: 1G, pids: 10}, reservations: {memory: 1M}}
      restart_policy: {condition: on-failure, delay: 1s, max_attempts: 3, window: 1m}
      update_config: {parallelism: 0, delay: 1s, failure_action: rollback, monitor: 1s, max_failure_ratio: 0.1}
      rollback_config: {parallelism: 1, order: stop-first}
networks: {n: {driver: overlay, attachable: true, ipam: {config: [{subnet: 10.0.0.0/24}]}}, m: }
volumes: {v: , w: {external: {name: x}}}
secrets: {s: {file: ./s}}
configs: {c: {external: true}}
"""
    )
    compose = load([file], {})
    assert compose.document.data["services"]["web"]["image"] == "a:1"
    assert compose.environments["web"] == {"A": "1", "B": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "services: {web: {image: i, x-swarmpy-max-unavailble: 1}}",
            'services.web: unknown key "x-swarmpy-max-unavailble" (did you mean "x-swarmpy-max-unavailable"?)',
        ),
        (
            "services: {web: {image: i, deploy: {x-swarmpy-progress-deadline: 5s}}}",
            'services.web.deploy: unknown key "x-swarmpy-progress-deadline"',
        ),
        ("x-swarmpy-max-unavailable: 1\nservices: {web: {image: i}}", 'unknown key "x-swarmpy-max-unavailable"'),
    ],
    ids=["misspelt", "below deploy", "at the top"],
)
def test_our_own_keys_are_not_passed_over(tmp_path: Path, text: str, message: str) -> None:
    """Keys of others are free; one of ours that means nothing where it stands is a mistake."""
    assert message in error_of(tmp_path, text)


def test_env_files_are_under_the_environment(tmp_path: Path) -> None:
    """Later env files win over earlier ones, the environment over all; variables without a value come from outside."""
    (tmp_path / "a.env").write_text("# comment\n\nA=1\nB=1\nC=1\nOUTSIDE\nNOWHERE\nQ='quoted'\n")
    (tmp_path / "b.env").write_text("B=2\nC=2\n")
    file = tmp_path / "f.yml"
    file.write_text(
        "services:\n  web:\n    image: a\n    env_file: [a.env, ./b.env]\n    environment: {C: 3, E: , OUTSIDE2: }\n"
    )
    compose = load([file], {"OUTSIDE": "o", "OUTSIDE2": "o2"})
    assert compose.environments["web"] == {
        "A": "1",
        "B": "2",
        "C": "3",
        "OUTSIDE": "o",
        "Q": "'quoted'",
        "E": None,
        "OUTSIDE2": "o2",
    }


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a directory and a missing env file are named with the reason."""
    with pytest.raises(ComposeError, match=r"nope\.yml: cannot be read: No such file"):
        load([tmp_path / "nope.yml"], {})
    with pytest.raises(ComposeError, match="cannot be read: Is a directory"):
        load([tmp_path], {})
    message = error_of(tmp_path, "services:\n  web:\n    image: a\n    env_file: nope.env\n")
    assert message.startswith("f.yml:4: services.web.env_file: ")
    assert message.endswith("nope.env: cannot be read: No such file or directory")
    (tmp_path / "bad.env").write_text("A B=1\n")
    message = error_of(tmp_path, "services:\n  web:\n    image: a\n    env_file: bad.env\n")
    assert "bad.env:1: 'A B' is no name of a variable" in message
    with pytest.raises(ComposeError, match="no stack file given"):
        load([], {})
