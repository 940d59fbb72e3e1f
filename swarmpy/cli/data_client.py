"""Secrets and configs, as the API's client asks for them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from swarmpy.cli.client import ApiClient, Json
from swarmpy.cli.deploy import change
from swarmpy.errors import InvalidArgument, ProtocolViolation


class DataClient:
    """One of both kinds (``word``: ``secret`` or ``config``)."""

    def __init__(self, client: ApiClient, word: str) -> None:
        self._client = client
        self.word = word

    async def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Json]:
        """All that match, as Docker's filters have it."""
        query = {"filters": json.dumps(filters)} if filters else {}
        return await self._client.objects(f"/{self.word}s", query)

    async def get(self, name: str) -> Json:
        """One by id, name or unique id prefix, with its versions."""
        return self._object(await self._client.get(self._path(name)))

    async def create(
        self, name: str, data: bytes, *, labels: Mapping[str, str] | None = None, template: str | None = None
    ) -> str:
        """Creates one; returns its id."""
        body = {"Name": name, "Labels": dict(labels or {}), **_content(data, template)}
        return str(self._object(await self._client.post(f"/{self.word}s/create", body)).get("ID", ""))

    async def new_version(
        self, name: str, data: bytes, *, labels: Mapping[str, str] | None = None, template: str | None = None
    ) -> Json:
        """Gives it other data; the id and number of the version. None: labels and template stay as they are."""
        body = _content(data, template) | ({} if labels is None else {"Labels": dict(labels)})
        return self._object(await self._client.post(f"{self._path(name)}/versions", body))

    async def change_labels(self, name: str, added: Mapping[str, str], removed: Sequence[str] = ()) -> None:
        """Changes labels. Raises InvalidArgument for one to remove that is not there."""

        async def write(current: Json) -> None:
            labels = dict(current["Spec"].get("Labels") or {})
            for key in removed:
                if key not in labels:
                    raise InvalidArgument(f"{self.word} {name} has no label {key!r}")
                del labels[key]
            body = {"Name": current["Spec"]["Name"], "Labels": labels | dict(added)}
            query = {"version": str(current["Version"]["Index"])}
            await self._client.post(f"{self._path(str(current['ID']))}/update", body, query=query)

        await change(lambda: self.get(name), write)

    async def remove(self, name: str) -> None:
        """Removes it with all its versions."""
        await self._client.delete(self._path(name))

    def _path(self, name: str) -> str:
        return f"/{self.word}s/{quote(name, safe='') or '%20'}"

    def _object(self, answer: Any) -> Json:
        if not isinstance(answer, dict):
            raise ProtocolViolation(f"the daemon answered a question for a {self.word} with something that is none")
        return answer


def _content(data: bytes, template: str | None) -> Json:
    content: Json = {"Data": base64.b64encode(data).decode()}
    if template is not None:
        content["Templating"] = {"Name": template}
    return content
