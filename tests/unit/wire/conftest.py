"""Two clusters and a lab."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from rpc_lab import Lab, Pki


@pytest.fixture(scope="session")
def pki() -> Pki:
    """The cluster under test."""
    return Pki("cluster-a")


@pytest.fixture(scope="session")
def other_pki() -> Pki:
    """Another cluster."""
    return Pki("cluster-b")


@pytest.fixture
async def lab(pki: Pki) -> AsyncIterator[Lab]:
    """A lab of the cluster under test."""
    async with AsyncExitStack() as stack:
        yield Lab(pki, stack)
