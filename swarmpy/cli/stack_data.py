"""Secrets and configs of a stack: brought to what its file says, and the services' references given their ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from swarmpy.cli.client import ApiClient, Json
from swarmpy.cli.data_client import DataClient
from swarmpy.cli.listings import NAMESPACE_LABEL
from swarmpy.compose.load import StackFile
from swarmpy.errors import NotFound
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.specs import ConfigSpec, SecretSpec, ServiceSpec

WORDS = ("secret", "config")
Ids = Mapping[tuple[str, str], str]
"""The ids of the latest versions, by word and name."""


async def deploy_data(client: ApiClient, stack_file: StackFile, say: Callable[[str], None]) -> Ids:
    """Creates the secrets and configs of a stack, and gives those that exist what the file says.

    Other data is a new version, and the services that use it are updated to it. Returns the ids of all that the
    stack's services refer to. Raises NotFound for an external one that is not there, before anything is changed.
    """
    made = {("secret", spec.name) for spec in stack_file.secrets} | {("config", s.name) for s in stack_file.configs}
    external = sorted(_referred(stack_file.services).difference(made))
    ids = {(word, name): await _found(client, word, name, stack_file) for word, name in external}
    for word, specs in (("secret", stack_file.secrets), ("config", stack_file.configs)):
        of_word = DataClient(client, word)
        for spec in specs:
            ids[word, spec.name] = await _deploy_one(of_word, spec, say)
    return ids


def _referred(services: Sequence[ServiceSpec]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for spec in services:
        found.update(("secret", reference.secret_name) for reference in spec.task.container.secrets)
        found.update(("config", reference.config_name) for reference in spec.task.container.configs)
    return found


async def _found(client: ApiClient, word: str, name: str, stack_file: StackFile) -> str:
    for item in await DataClient(client, word).list({"names": [name]}):
        return str(item["ID"])
    users = [spec.name for spec in stack_file.services if (word, name) in _referred((spec,))]
    raise NotFound(f"service {users[0]}: {word} not found: {name}: create it first, or give the stack a file for it")


async def _deploy_one(of_word: DataClient, spec: SecretSpec | ConfigSpec, say: Callable[[str], None]) -> str:
    known = await of_word.list({"names": [spec.name]})
    if not known:
        say(f"Creating {of_word.word} {spec.name}")
        return await of_word.create(spec.name, spec.data, labels=spec.labels, template=spec.templating or None)
    (current,) = known
    made = await of_word.new_version(str(current["ID"]), spec.data, labels=spec.labels, template=spec.templating)
    if made["ID"] != current["ID"]:
        say(f"Updating {of_word.word} {spec.name} (version {made['Number']})")
    return str(made["ID"])


def resolved(spec: ServiceSpec, ids: Ids) -> ServiceSpec:
    """``spec`` with the ids of all that it refers to by name."""
    container = spec.task.container
    secrets = tuple(
        attrs.evolve(reference, secret_id=SecretId(ids["secret", reference.secret_name]))
        for reference in container.secrets
    )
    configs = tuple(
        attrs.evolve(reference, config_id=ConfigId(ids["config", reference.config_name]))
        for reference in container.configs
    )
    container = attrs.evolve(container, secrets=secrets, configs=configs)
    return attrs.evolve(spec, task=attrs.evolve(spec.task, container=container))


async def stack_data(client: ApiClient, stack: str) -> list[tuple[str, Json]]:
    """The secrets and configs of a stack, each with its word."""
    label = {"label": [f"{NAMESPACE_LABEL}={stack}"]}
    return [(word, item) for word in WORDS for item in await DataClient(client, word).list(label)]


async def remove_data(client: ApiClient, found: Sequence[tuple[str, Json]], say: Callable[[str], None]) -> None:
    """Removes them. Raises FailedPrecondition for one that services of others use."""
    for word, item in found:
        say(f"Removing {word} {item['Spec']['Name']}")
        await DataClient(client, word).remove(str(item["ID"]))
