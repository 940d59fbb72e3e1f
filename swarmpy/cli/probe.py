"""Which runtime ``swarmpy dev`` uses: Docker when an engine answers and can have the stack's images, else processes."""

from __future__ import annotations

import attrs
import click

from swarmpy.compose.load import StackFile
from swarmpy.errors import RuntimeUnavailable
from swarmpy.runtime.docker_engine import Engine, EngineError

PROBE_TIMEOUT_S = 3.0


@attrs.frozen(kw_only=True)
class Choice:
    """A runtime, and one line on why it is this one."""

    name: str
    reason: str


async def choose_runtime(asked: str, stack: StackFile) -> Choice:
    """The runtime for all nodes. Images that are missing are pulled now, once, rather than by every node.

    Raises RuntimeUnavailable when docker is asked for and cannot be had.
    """
    if asked == "process":
        return Choice(name="process", reason="asked for")
    engine = Engine()
    try:
        await engine.open(PROBE_TIMEOUT_S)
    except RuntimeUnavailable as error:
        if asked == "docker":
            what_to_do = "it must run, and this user must be allowed to use it; or use --runtime process"
            raise RuntimeUnavailable(f"{error}: {what_to_do}") from error
        return Choice(name="process", reason=str(error))
    try:
        for image in sorted({spec.task.container.image for spec in stack.services}):
            await _provide(engine, image)
        version = str((await engine.version()).get("Version", ""))
        return Choice(name="docker", reason=f"Docker Engine {version} answers at {engine.url}")
    except RuntimeUnavailable as error:
        if asked == "docker":
            raise
        return Choice(name="process", reason=str(error))
    finally:
        await engine.close()


async def _provide(engine: Engine, image: str) -> None:
    if await engine.has_image(image):
        return
    click.echo(f"pulling {image}")
    try:
        await engine.pull(image)
    except EngineError as error:
        raise RuntimeUnavailable(f"image {image} is neither on this machine nor to be pulled ({error})") from error
