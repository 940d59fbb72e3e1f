"""A dialler that asks about the peer before anybody speaks to it."""

from __future__ import annotations

import pytest
from rpc_lab import Lab, Pki

from swarmpy.errors import BadCertificate, CertificateRevoked, ConnectionFailed
from swarmpy.ports import Peer
from swarmpy.wire.checked import CheckedDialer
from swarmpy.wire.router import Router


async def test_who_does_not_pass_is_a_stranger(lab: Lab, pki: Pki) -> None:
    """The connection is closed, and the error is no word of the peer about this node. Others are as dialled."""
    revoked = pki.credentials("bad").identity
    serials: list[str] = []

    def check(peer: Peer) -> None:
        serials.append(peer.serial)
        if peer.serial == revoked.serial:
            raise CertificateRevoked(f"node {peer.node_id} is no manager any more")

    good, bad = await lab.server(Router()), await lab.server(Router(), credentials=pki.credentials("bad"))
    bad._credentials.replace(revoked)
    dialer = CheckedDialer(lab.dialer(), check)
    channel = await dialer.dial(good.address, timeout=5)
    assert channel.peer.node_id == "server"
    await channel.close()
    with pytest.raises(BadCertificate, match=rf"{bad.address}: node bad is no manager any more"):
        await dialer.dial(bad.address, timeout=5)
    await good.stop()
    with pytest.raises(ConnectionFailed):
        await dialer.dial(good.address, timeout=5)
    assert [serial == revoked.serial for serial in serials] == [False, True]
