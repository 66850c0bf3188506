"""Who is admitted, and what a stranger learns: nothing."""

import asyncio
import functools

import pytest

from node.cluster.errors import ClusterRefused
from node.cluster.handshake import (
    HANDSHAKE_TIMEOUT_S,
    PROTOCOL,
    REFUSAL_DELAY_S,
    accept_proof,
    derive_secret,
    offer_proof,
)
from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.record import decode_canonical, encode_canonical
from transport.errors import StreamReset
from transport.testing import FakeNetwork, run_virtual

HOME = ("home", "")
KEYED = ("home", "correct horse")

secret_of = functools.cache(derive_secret)
"""Only tests that run derive: with a key it takes a third of a second, and much memory."""


async def opened(network):
    """Two hosts, the opener's stream, and the acceptor's as a future."""
    opener, acceptor = network.host(), network.host()
    accepted = asyncio.get_running_loop().create_future()

    async def handle(stream):
        accepted.set_result(stream)
        await asyncio.sleep(60)

    acceptor.set_handler(PROTOCOL, handle)
    connection = await opener.connect(acceptor.peer_id, acceptor.addresses, timeout_s=5)
    return opener, acceptor, await connection.open_stream(PROTOCOL), await accepted


async def shake(ours, theirs):
    """What each end got or was raised."""
    opener, acceptor, near, far = await opened(FakeNetwork(delay_s=0.001))
    results = await asyncio.gather(
        offer_proof(near, ours, opener.peer_id, 111),
        accept_proof(far, theirs, acceptor.peer_id, 222),
        return_exceptions=True,
    )
    await opener.close()
    await acceptor.close()
    return results


@pytest.mark.parametrize("secret", [HOME, KEYED], ids=["name alone", "name and key"])
def test_machines_of_one_cluster_admit_each_other(secret):
    assert run_virtual(shake(secret_of(*secret), secret_of(*secret))) == [222, 111]


@pytest.mark.parametrize(
    "other",
    [HOME, ("home", "wrong"), ("house", "correct horse")],
    ids=["no key", "another key", "another name"],
)
def test_everybody_else_is_refused(other):
    for ours, theirs in ((KEYED, other), (other, KEYED)):
        results = run_virtual(shake(secret_of(*ours), secret_of(*theirs)))
        assert [type(result) for result in results] == [ClusterRefused] * 2


def test_a_wrong_proof_costs_time_and_gets_no_proof_in_return():
    async def run():
        opener, acceptor, near, far = await opened(FakeNetwork())
        accepting = asyncio.create_task(accept_proof(far, secret_of(*KEYED), acceptor.peer_id, 1))
        loop = asyncio.get_running_loop()
        await near.send(encode_canonical({"version": 1, "nonce": bytes(32), "joined_at_ms": 5}))
        hello = decode_canonical(await near.receive())
        assert set(hello) == {"version", "nonce", "joined_at_ms"}
        began = loop.time()
        await near.send(encode_canonical({"mac": bytes(32)}))
        with pytest.raises(StreamReset):
            await near.receive()
        assert loop.time() - began >= REFUSAL_DELAY_S
        with pytest.raises(ClusterRefused):
            await accepting
        await opener.close()
        await acceptor.close()

    run_virtual(run())


def test_a_proof_cannot_be_sent_back_to_its_maker():
    """A stranger who dials us cannot use the proof that we make when we dial him."""
    own, peer = FakeNetwork(seed=1).host().peer_id, FakeNetwork(seed=2).host().peer_id
    hellos = b"both hellos"
    macs = {
        secret_of(*KEYED).mac(role, opener, acceptor, hellos)
        for role in (b"opener", b"acceptor")
        for opener, acceptor in ((own, peer), (peer, own))
    }
    assert len(macs) == 4
    assert repr(secret_of(*KEYED)).find(secret_of(*KEYED).key.hex()) < 0


@pytest.mark.parametrize(
    "first",
    [
        b"", b"\xff", b"x" * 2000, encode_canonical([]),
        encode_canonical({"version": 1, "nonce": b"short", "joined_at_ms": 5}),
        encode_canonical({"version": 1, "nonce": bytes(32)}),
    ],
    ids=["empty", "no CBOR", "long", "a list", "short nonce", "field missing"],
)  # fmt: skip
def test_nonsense_is_refused(first):
    async def run():
        opener, acceptor, near, far = await opened(FakeNetwork())
        await near.send(first)
        with pytest.raises(RemoteProtocolError):
            await accept_proof(far, secret_of(*KEYED), acceptor.peer_id, 1)
        with pytest.raises(StreamReset):
            await near.receive()
        await opener.close()
        await acceptor.close()

    run_virtual(run())


def test_another_version_is_told_from_another_cluster():
    async def run():
        opener, acceptor, near, far = await opened(FakeNetwork())
        await near.send(encode_canonical({"version": 2, "nonce": bytes(32), "joined_at_ms": 5}))
        with pytest.raises(ClusterRefused, match="version 2"):
            await accept_proof(far, secret_of(*KEYED), acceptor.peer_id, 1)
        await opener.close()
        await acceptor.close()

    run_virtual(run())


@pytest.mark.parametrize("side", [offer_proof, accept_proof], ids=["acceptor", "opener"])
def test_a_silent_machine_is_not_waited_for(side):
    async def run():
        opener, acceptor, near, far = await opened(FakeNetwork())
        began = asyncio.get_running_loop().time()
        stream = near if side is offer_proof else far
        with pytest.raises(PieceworkError):
            await side(stream, secret_of(*KEYED), opener.peer_id, 1)
        assert asyncio.get_running_loop().time() - began == pytest.approx(HANDSHAKE_TIMEOUT_S)
        await opener.close()
        await acceptor.close()

    run_virtual(run())
