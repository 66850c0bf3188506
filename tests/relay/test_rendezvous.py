import asyncio
import time

import pytest

from protocol.relay_messages import (
    RefusalCode,
    decode_answer,
)
from protocol.rendezvous_messages import (
    DISCOVER_RECORDS_MAX,
    RENDEZVOUS_BYTES_MAX,
    RENDEZVOUS_PROTOCOL,
    Discover,
    Discovered,
    Register,
    Registered,
    Unregister,
)
from relay.rendezvous import RendezvousService
from relay.requests import PENDING_PER_PEER_MAX, RequestGate
from relay.resources import CircuitLimits, RendezvousLimits
from tests.relay.control_pair import RelayHost
from tests.relay.test_records import hello
from transport.control.messages import read_message, write_message
from transport.errors import StreamReset


class Relay:
    def __init__(self, limits, circuits):
        self.host = RelayHost()
        self.gate = RequestGate(circuits)
        self.service = RendezvousService(limits, self.gate)
        self.host.set_handler(RENDEZVOUS_PROTOCOL, self.service.serve)


@pytest.fixture
async def make():
    relays = []

    def _make(circuits=None, **limits):
        relays.append(Relay(RendezvousLimits(**limits), circuits or CircuitLimits()))
        return relays[-1]

    yield _make
    for relay in relays:
        await relay.host.close()


async def ask(stream, kind, request):
    data = request if isinstance(request, bytes) else request.encode()
    await write_message(stream, data)
    return decode_answer(kind, await read_message(stream, RENDEZVOUS_BYTES_MAX, timeout_s=5))


def fresh(key, **fields):
    now_s = int(time.time())
    return hello(key, issued_at_s=now_s, expires_at_s=now_s + 60, **fields)


async def test_one_registers_and_another_discovers_over_one_stream_each(make):
    relay = make()
    one, other = relay.host.join("a"), relay.host.join("b")
    stream = one.ask(RENDEZVOUS_PROTOCOL)
    register = fresh(one.key)
    assert (await ask(stream, Registered, register)).expires_at_s > time.time()
    looking = other.ask(RENDEZVOUS_PROTOCOL)
    found = await ask(looking, Discovered, Discover("home", DISCOVER_RECORDS_MAX))
    assert found.records == (register.record,)
    assert await ask(stream, Registered, Unregister("home")) == Registered(0)
    assert not (await ask(looking, Discovered, Discover("home", 1))).records
    await stream.finish()
    assert await stream.read(1) == b""


@pytest.mark.parametrize(
    ("make_request", "code"),
    [
        (lambda peer, other: fresh(other), RefusalCode.PERMISSION_DENIED),
        (lambda peer, other: hello(peer, expires_at_s=1, issued_at_s=0), RefusalCode(202)),
        (lambda peer, other: Register("home", b"unsigned"), RefusalCode.MALFORMED_MESSAGE),
        (lambda peer, other: b"\xff", RefusalCode.MALFORMED_MESSAGE),
    ],
    ids=["foreign", "expired", "unsigned", "garbage"],
)
async def test_what_is_refused_is_answered_and_the_stream_goes_on(make, make_request, code):
    relay = make()
    peer, other = relay.host.join("a"), relay.host.join("b")
    stream = peer.ask(RENDEZVOUS_PROTOCOL)
    assert (await ask(stream, Registered, make_request(peer.key, other.key))).code == code
    assert len(relay.service.records) == 0
    assert await ask(stream, Registered, Unregister("home")) == Registered(0)


async def test_length_above_the_limit_resets_the_stream(make):
    relay = make()
    stream = relay.host.join("a").ask(RENDEZVOUS_PROTOCOL)
    await stream.write((2**31).to_bytes(4, "big"))
    with pytest.raises(StreamReset):
        await stream.read(1)


async def test_requests_of_one_peer_are_limited_over_all_its_streams(make):
    relay = make(CircuitLimits(requests_per_peer_per_s=0.001, requests_per_peer_burst=2))
    peer = relay.host.join("a")
    answers = [
        await ask(peer.ask(RENDEZVOUS_PROTOCOL), Registered, Unregister("home")) for _ in range(5)
    ]
    assert answers[:2] == [Registered(0)] * 2
    assert {answer.code for answer in answers[3:]} == {RefusalCode.RESOURCE_LIMIT_EXCEEDED}


async def test_silent_streams_are_few_and_reset_in_time(make):
    relay = make(idle_s=0.1)
    peer = relay.host.join("a")
    silent = [peer.ask(RENDEZVOUS_PROTOCOL) for _ in range(PENDING_PER_PEER_MAX + 1)]
    for stream in reversed(silent):
        with pytest.raises(StreamReset):
            await stream.read(1)
    assert relay.gate.refusals.counts == {"circuits.requests_pending_max": 1}


async def test_who_does_not_read_its_answers_is_reset(make):
    relay = make(send_timeout_s=0.1)
    writer = relay.host.join("b")
    filling = writer.ask(RENDEZVOUS_PROTOCOL)
    await ask(filling, Registered, fresh(writer.key, text="x" * 3800))
    stream = relay.host.join("a").ask(RENDEZVOUS_PROTOCOL)
    asked = Discover("home", 1).encode()
    for _ in range(100):  # a window of 256 KiB holds about 65 answers
        await write_message(stream, asked)
    await asyncio.sleep(0.3)
    with pytest.raises(StreamReset):
        await stream.read(1)
