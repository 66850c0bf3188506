import asyncio

import pytest

from protocol.datagram import Bind, Bound
from protocol.relay_messages import (
    FORWARD_BYTES_MAX,
    FORWARD_PROTOCOL,
    ForwardGrant,
    ForwardRequest,
    RefusalCode,
    Refused,
    decode_answer,
)
from relay.forwarder import Forwarder
from relay.forwarding import ForwardingService
from relay.requests import RequestGate
from relay.resources import CircuitLimits, ForwarderLimits
from tests.binding import bind_at
from tests.relay.control_pair import RelayHost, peer_id
from transport.control.messages import read_message, write_message
from transport.errors import StreamReset

SOURCE = ("203.0.113.7", 5000)


class Relay:
    def __init__(self, circuits, forwarder):
        self.host = RelayHost()
        self.gate = RequestGate(circuits)
        self.forwarder = Forwarder(forwarder)
        self.service = ForwardingService(
            self.forwarder,
            self.gate,
            (circuits, forwarder),
            host="198.51.100.1",
            ports=(4001, 4002),
        )
        self.host.set_handler(FORWARD_PROTOCOL, self.service.serve)

    @property
    def circuit_count(self):
        return self.forwarder.statistics().circuits

    async def ask(self, peer, other):
        """The stream and the answer on it."""
        stream = peer.ask(FORWARD_PROTOCOL)
        await write_message(stream, ForwardRequest(other).encode())
        return stream, await answer(stream)


async def answer(stream):
    return decode_answer(ForwardGrant, await read_message(stream, FORWARD_BYTES_MAX, timeout_s=5))


@pytest.fixture
async def make():
    relays = []

    def _make(circuits=None, **limits):
        relays.append(Relay(circuits or CircuitLimits(), ForwarderLimits(**limits)))
        return relays[-1]

    yield _make
    for relay in relays:
        await relay.host.close()
        relay.service.close()
        assert relay.circuit_count == 0
        assert not relay.service._of_network


async def test_grant_opens_both_sides_at_the_forwarder(make):
    relay = make()
    _, grant = await relay.ask(relay.host.join("a"), peer_id("b"))
    assert (grant.host, grant.ports) == ("198.51.100.1", (4001, 4002))
    for side, secret in enumerate((grant.secret_ours, grant.secret_theirs)):
        bound = bind_at(relay.forwarder, Bind(grant.circuit, side, 1), secret, SOURCE)
        assert (Bound.decode(bound).side, Bound.decode(bound).is_bound) == (side, True)


async def test_circuit_is_freed_when_its_owner_ends_the_stream(make):
    relay = make()
    stream, _ = await relay.ask(relay.host.join("a"), peer_id("b"))
    assert relay.circuit_count == 1
    await stream.finish()
    assert await stream.read(1) == b""
    assert relay.circuit_count == 0


async def test_circuit_outlives_a_broken_stream_by_its_grace(make):
    relay = make(grace_s=0.1)
    stream, _ = await relay.ask(relay.host.join("a"), peer_id("b"))
    await stream.reset()
    await asyncio.sleep(0.02)
    assert relay.circuit_count == 1
    await asyncio.sleep(0.12)
    assert relay.circuit_count == 0


async def test_owner_of_an_idle_circuit_is_told(make):
    relay = make()
    stream, grant = await relay.ask(relay.host.join("a"), peer_id("b"))
    await relay.service.sweep()
    relay.forwarder.release(grant.circuit)
    await relay.service.sweep()
    with pytest.raises(StreamReset):
        await stream.read(1)


async def test_stream_of_a_grant_only_stays_open(make):
    relay = make()
    stream, _ = await relay.ask(relay.host.join("a"), peer_id("b"))
    await stream.write(b"and now?")
    with pytest.raises(StreamReset):
        await stream.read(1)
    assert relay.circuit_count == 0


@pytest.mark.parametrize(
    "limit", ["circuits_max", "circuits_per_peer_max", "circuits_per_host_max"]
)
async def test_refusal_names_the_limit(make, limit):
    relay = make(**{limit: 1})
    peer = relay.host.join("a")
    await relay.ask(peer, peer_id("b"))
    stream, refused = await relay.ask(peer, peer_id("c"))
    assert isinstance(refused, Refused)
    assert refused.code == RefusalCode.RESOURCE_LIMIT_EXCEEDED
    assert f"forwarder.{limit}" in refused.error
    assert await stream.read(1) == b""


async def test_not_over_a_relay_and_not_to_oneself(make):
    relay = make()
    relayed = relay.host.join("a", is_relayed=True)
    _, refused = await relay.ask(relayed, peer_id("b"))
    assert refused.code == RefusalCode.PERMISSION_DENIED
    _, refused = await relay.ask(relay.host.join("c"), peer_id("c"))
    assert refused.code == RefusalCode.PERMISSION_DENIED


@pytest.mark.parametrize("sent", [b"", b"\xff", b"\xa1\x65other\x41x", bytes(100)], ids=str)
async def test_malformed_request_is_answered(make, sent):
    relay = make()
    stream = relay.host.join("a").ask(FORWARD_PROTOCOL)
    await write_message(stream, sent)
    assert (await answer(stream)).code == RefusalCode.MALFORMED_MESSAGE
    assert relay.gate.refusals.counts == {"malformed": 1}


async def test_length_above_the_limit_is_answered_unread(make):
    relay = make()
    stream = relay.host.join("a").ask(FORWARD_PROTOCOL)
    await stream.write((2**32 - 1).to_bytes(4, "big"))
    assert (await answer(stream)).code == RefusalCode.MALFORMED_MESSAGE


async def test_stream_that_asks_nothing_is_reset_in_time(make):
    relay = make(CircuitLimits(handshake_timeout_s=0.05))
    stream = relay.host.join("a").ask(FORWARD_PROTOCOL)
    with pytest.raises(StreamReset):
        await stream.read(1)


async def test_requests_of_one_peer_are_limited(make):
    relay = make(CircuitLimits(requests_per_peer_per_s=0.001, requests_per_peer_burst=2))
    peer = relay.host.join("a")
    answers = [(await relay.ask(peer, peer_id("b")))[1] for _ in range(5)]
    refused = [isinstance(each, Refused) for each in answers]
    assert (refused[:2], refused[3:]) == ([False, False], [True, True])
