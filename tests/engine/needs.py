"""What single tests need beside an engine. Where an engine is required, so is all of this: then nothing is skipped."""

from __future__ import annotations

import os
import shutil

import pytest

IS_REQUIRED = os.environ.get("SWARMPY_REQUIRE_ENGINE") == "1"
_IS_ROOT = os.geteuid() == 0

needs_docker_cli = pytest.mark.skipif(
    not IS_REQUIRED and shutil.which("docker") is None, reason="the docker command is not installed"
)
needs_own_engine = pytest.mark.skipif(
    not IS_REQUIRED and (shutil.which("dockerd") is None or not _IS_ROOT), reason="no engine can be started here"
)
needs_root = pytest.mark.skipif(not IS_REQUIRED and not _IS_ROOT, reason="only root has mounts of its own")
