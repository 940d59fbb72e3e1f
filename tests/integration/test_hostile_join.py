"""Joining over real connections to a daemon: crowds get in, and those with wrong tokens do not."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fortress import Fortress, standing

from swarmpy.errors import PermissionDenied, SwarmpyError, Unavailable
from swarmpy.manager.joining import JoinCall
from swarmpy.model import codec
from swarmpy.model.states import Availability, Role
from swarmpy.node import joining
from swarmpy.node.joining import fetch_identity
from swarmpy.security import tokens
from swarmpy.security.identity import NodeIdentity, new_key_and_csr

CROWD = int(os.environ.get("SWARMPY_CROWD", "100"))


@pytest.fixture
async def fortress(tmp_path: Path) -> AsyncIterator[Fortress]:
    """A daemon that has not heard of anybody."""
    async with standing(tmp_path / "node") as fortress:
        yield fortress


async def join(fortress: Fortress, token: str, **more: Any) -> NodeIdentity:
    """A machine asks to become a node."""
    identity, _ = await fetch_identity(
        [fortress.address], token, hostname="h", availability=Availability.ACTIVE, random=random.Random(), **more
    )
    return identity


async def test_a_crowd_behind_one_address_gets_in(fortress: Fortress, monkeypatch: pytest.MonkeyPatch) -> None:
    """More at once, from one address, than there is room for: each becomes one node, and waits by itself for it."""
    # All of them, and the daemon, share one processor here.
    monkeypatch.setattr(joining, "DIAL_TIMEOUT_S", 60.0)
    monkeypatch.setattr(joining, "CALL_TIMEOUT_S", 60.0)
    before = len(fortress.manager.store.view().nodes())
    token = fortress.cluster.join_tokens.worker
    joined = await asyncio.gather(*(join(fortress, token, patience_s=60) for _ in range(CROWD)))
    assert len({identity.node_id for identity in joined}) == CROWD
    assert {identity.role for identity in joined} == {Role.WORKER}
    assert len(fortress.manager.store.view().nodes()) == before + CROWD


async def test_guessing_is_slow_and_tells_nothing(fortress: Fortress) -> None:
    """Of sixty wrong tokens from one address ten are looked at, and one a second after that; all are told the same."""
    wrong = [tokens.make_token(fortress.cluster.root_ca.cert_digest, random.Random(n)) for n in range(60)]

    async def guess(token: str) -> SwarmpyError:
        channel = await fortress.dial(None)
        try:
            call = JoinCall(token=token, csr_pem=new_key_and_csr()[1], schema=codec.SCHEMA_VERSION)
            await channel.call("ca.join", codec.to_plain(call), timeout=30)
        except SwarmpyError as error:
            return error
        finally:
            await channel.close()
        raise AssertionError("a token was guessed")

    before, began = fortress.manager.store.version, time.monotonic()
    errors = [await guess(token) for token in wrong]
    looked_at = [error for error in errors if isinstance(error, PermissionDenied)]
    assert {error.message for error in looked_at} == {tokens.INVALID}
    assert 10 <= len(looked_at) <= 11 + (time.monotonic() - began)
    assert all(type(error) is Unavailable for error in errors if error not in looked_at)
    assert fortress.manager.store.version == before


async def test_who_is_right_gets_in_after_those_who_were_wrong(fortress: Fortress) -> None:
    """From the very address from which too many have failed: it waits by itself as long as it is told."""
    wrong = tokens.make_token(fortress.cluster.root_ca.cert_digest, random.Random(7))
    errors = await asyncio.gather(*(join(fortress, wrong, patience_s=0) for _ in range(20)), return_exceptions=True)
    assert any(type(error) is Unavailable for error in errors)
    identity = await join(fortress, fortress.cluster.join_tokens.worker)
    assert fortress.manager.store.view().node(identity.node_id) is not None


async def test_an_answer_that_was_lost_is_asked_for_again(fortress: Fortress) -> None:
    """The same request by another connection is answered with the same certificate: there is one node, not two."""
    key_pem, csr_pem = new_key_and_csr()
    call = JoinCall(token=fortress.cluster.join_tokens.worker, csr_pem=csr_pem, schema=codec.SCHEMA_VERSION)
    before, answers = len(fortress.manager.store.view().nodes()), []
    for _ in range(5):
        channel = await fortress.dial(None)
        answers.append(await channel.call("ca.join", codec.to_plain(call), timeout=30))
        await channel.close()
    assert answers == answers[:1] * 5
    assert key_pem
    assert len(fortress.manager.store.view().nodes()) == before + 1
