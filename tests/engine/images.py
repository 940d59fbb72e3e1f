"""Builds the images of the tests from the machine's static busybox, since no registry can be reached.

Run as a script it makes sure that they are there: ``python tests/engine/images.py [--remove]``. ``swarmpy-test:latest``
is ours alone; ``busybox:1.36`` is only made where no such image exists, and only removed if it was made here.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import aiohttp

SOCKET = "/var/run/docker.sock"
PRIVATE_TAG = "swarmpy-test:latest"
COMMON_TAG = "busybox:1.36"
OURS = "swarmpy.test.image"
"""Label of the images made here."""

BUSYBOX = Path("/bin/busybox")
API = "http://docker/v1.41"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ETC_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnobody:x:65534:\n",
}


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = mode
    archive.addfile(info, io.BytesIO(data))


def _layer(ballast: bytes = b"") -> bytes:
    """The root file system: busybox, a link for each of its applets, and the directories that programs expect."""
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("www", 0o755)):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, mode
            archive.addfile(info)
        _add(archive, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                info = tarfile.TarInfo(f"bin/{applet}")
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, "busybox", 0o777
                archive.addfile(info)
        for name, text in ETC_FILES.items():
            _add(archive, name, text.encode())
        if ballast:
            _add(archive, "ballast", ballast)
    return out.getvalue()


def docker_archive(tags: list[str], *, version: str = "true", architecture: str = "", ballast: bytes = b"") -> bytes:
    """An archive for ``docker load``: one layer, one configuration, one manifest.

    ``version`` makes it another image than the rest, ``architecture`` one for other machines, ``ballast`` a larger one.
    """
    layer = _layer(ballast)
    config = {
        "architecture": architecture or ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": {OURS: version}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    config_bytes = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(config_bytes).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": tags, "Layers": ["layer.tar"]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        _add(archive, "layer.tar", layer)
        _add(archive, config_name, config_bytes)
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return out.getvalue()


async def _labels(session: aiohttp.ClientSession, tag: str) -> dict[str, Any] | None:
    async with session.get(f"{API}/images/{tag}/json") as response:
        if response.status == 404:
            return None
        response.raise_for_status()
        return (await response.json())["Config"]["Labels"] or {}


def _session(socket: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket), timeout=aiohttp.ClientTimeout(total=120))


async def ensure_images(socket: str = SOCKET) -> list[str]:
    """Load what is missing; the tags that were made."""
    async with _session(socket) as session:
        missing = [tag for tag in (PRIVATE_TAG, COMMON_TAG) if await _labels(session, tag) is None]
        if missing:
            await _load(session, docker_archive(missing))
        return missing


async def load_image(tag: str, *, socket: str = SOCKET, **variant: Any) -> None:
    """Give the engine an image of that tag; ``variant``: see :func:`docker_archive`."""
    async with _session(socket) as session:
        await _load(session, await asyncio.to_thread(docker_archive, [tag], **variant))


async def _load(session: aiohttp.ClientSession, archive: bytes) -> None:
    headers = {"Content-Type": "application/x-tar"}
    async with session.post(f"{API}/images/load", data=io.BytesIO(archive), headers=headers) as response:
        response.raise_for_status()
        text = await response.text()
        assert "errorDetail" not in text, text


async def remove_images(tags: list[str], socket: str = SOCKET) -> None:
    """Remove the tags, as far as they were made here."""
    async with _session(socket) as session:
        for tag in tags:
            if OURS in (await _labels(session, tag) or {}):
                async with session.delete(f"{API}/images/{tag}", params={"force": "true"}):
                    pass


if __name__ == "__main__":
    if sys.argv[1:] == ["--remove"]:
        asyncio.run(remove_images([PRIVATE_TAG, COMMON_TAG]))
    else:
        asyncio.run(ensure_images())
        print(f"images ready: {PRIVATE_TAG} {COMMON_TAG}")
