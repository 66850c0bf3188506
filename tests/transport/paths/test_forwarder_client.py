import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest

from protocol.datagram import Bind, Bound
from tests.transport.conftest import ECHO, StartHost
from tests.transport.wires import FakeRelay, NATPair
from transport.paths.forwarder_client import (
    COOKIES_TAKEN_MAX,
    RETRY_S,
    BindingState,
    CircuitBinding,
)
from transport.paths.path_address import CircuitPath
from transport.paths.probing import Probing
from transport.quic.host import QuicHost
from transport.quic.settings import QuicSettings


@pytest.fixture
async def relay() -> AsyncIterator[FakeRelay]:
    made = FakeRelay()
    yield made
    made.close()


async def until(condition, timeout_s: float = 3.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


class TestBinding:
    async def test_both_sides_are_bound_and_know_it(self, start_host: StartHost, relay: FakeRelay):
        circuit, changes = relay.circuit(), []
        probings = [Probing((await start_host()).endpoint) for _ in range(2)]
        first = relay.bind(probings[0], circuit, 0, on_change=lambda b: changes.append(b.state))
        await until(lambda: first.state is BindingState.BOUND)
        assert not first.is_other_bound
        second = relay.bind(probings[1], circuit, 1)
        await until(lambda: first.is_other_bound and second.is_other_bound)
        assert changes == [BindingState.BOUND, BindingState.BOUND]
        first.close()
        second.close()

    async def test_asks_again_until_it_is_bound(self, start_host: StartHost, relay: FakeRelay):
        relay.is_cut = True
        binding = relay.bind(Probing((await start_host()).endpoint), relay.circuit(), 0)
        await asyncio.sleep(0.05)
        relay.is_cut = False
        await until(lambda: binding.state is BindingState.BOUND, 1.0)
        binding.close()

    async def test_silence_counts_as_refusal(self, start_host, relay):
        binding = CircuitBinding(
            Probing((await start_host()).endpoint),
            CircuitPath(relay.address, b"unknown!"),
            0,
            os.urandom(32),
            silence_s=0.3,
        )
        await until(lambda: binding.state is BindingState.SILENT)
        assert binding.refused_s is not None
        binding.close()

    async def test_rebinds_at_once_when_the_network_changed(self, start_host, relay):
        circuit = relay.circuit()
        binding = relay.bind(Probing((await start_host()).endpoint), circuit, 0)
        await until(lambda: binding.state is BindingState.BOUND)
        side = relay.circuits[circuit][0]
        before, side.address = side.counter, None
        binding.rebind()
        await until(lambda: side.address is not None, 0.2)
        assert side.counter > before
        binding.close()

    async def test_answers_that_are_forged_or_old_are_not_believed(self, start_host, relay):
        asked: list[tuple[bytes, tuple[str, int]]] = []
        circuit = relay.circuit()
        relay.main.take = lambda data, source: asked.append((data, source))
        binding = relay.bind(Probing((await start_host()).endpoint), circuit, 0)
        await until(lambda: bool(asked))
        bind, source = Bind.decode(asked[0][0]), asked[0][1]
        secret = relay.circuits[circuit][0].secret
        for counter, side, key in (
            (bind.counter, 0, bytes(32)),
            (bind.counter, 1, secret),
            (bind.counter - 1, 0, secret),
            (bind.counter + 1000, 0, secret),
        ):
            relay.main.send(Bound(circuit, side, counter, True).encode(key), source)
        relay.main.send(b"\x07" + circuit + b"short", source)
        await asyncio.sleep(0.05)
        assert binding.state is BindingState.BINDING
        relay.main.send(Bound(circuit, 0, bind.counter, True).encode(secret), source)
        await until(lambda: binding.state is BindingState.BOUND, 0.2)
        binding.close()


class CookieRelay(FakeRelay):
    """Genuine in everything, and binds nobody: each answer has another cookie."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Bind] = []
        self.told = b"always 1"
        self.is_changing = True

    def on_bind(self, data: bytes, source: tuple[str, int]) -> None:
        bind = Bind.decode(data)
        self.asked.append(bind)
        if self.is_changing:
            self.told = os.urandom(8)
        secret = self.circuits[bind.circuit][bind.side].secret
        bound = Bound(bind.circuit, bind.side, bind.counter, True, False, self.told)
        for _ in range(3):
            self.main.send(bound.encode(secret), source)


class TestCookie:
    async def test_the_cookie_told_is_sent_at_once_and_kept(self, start_host, relay):
        circuit = relay.circuit()
        binding = relay.bind(Probing((await start_host()).endpoint), circuit, 0)
        await until(lambda: binding.state is BindingState.BOUND, RETRY_S * 0.8)
        assert relay.cookies_told == 1
        relay.circuits[circuit][0].address = None
        binding.rebind()
        await until(lambda: relay.circuits[circuit][0].address is not None, RETRY_S * 0.8)
        assert relay.cookies_told == 1
        binding.close()

    async def test_after_a_nat_reboot_the_side_is_bound_anew_in_one_more_round_trip(
        self, start_host, relay
    ):
        host: QuicHost = await start_host()
        nat = NATPair(("127.0.0.1", host.endpoint.udp.port), relay.address)
        circuit = relay.circuit()
        side = relay.circuits[circuit][0]
        path = CircuitPath(nat.seen_by_a, circuit)
        binding = CircuitBinding(Probing(host.endpoint), path, 0, side.secret)
        await until(lambda: binding.state is BindingState.BOUND)
        assert side.address == nat.seen_by_b
        nat.reboot_a()
        assert side.address != nat.seen_by_b
        binding.rebind()
        await until(lambda: side.address == nat.seen_by_b, RETRY_S * 0.8)
        assert relay.cookies_told == 2
        binding.close()
        nat.close()

    @pytest.mark.parametrize("is_changing", [False, True])
    async def test_a_relay_that_never_binds_costs_few_datagrams(self, start_host, is_changing):
        relay = CookieRelay()
        relay.is_changing = is_changing
        circuit, began = relay.circuit(), time.monotonic()
        probing = Probing((await start_host()).endpoint)
        binding = relay.bind(probing, circuit, 0, silence_s=3 * RETRY_S)
        await until(lambda: binding.state is BindingState.SILENT)
        await asyncio.sleep(0.1)
        timed = 1 + int((time.monotonic() - began) / RETRY_S)
        at_once = COOKIES_TAKEN_MAX * timed if is_changing else 1
        assert 2 < len(relay.asked) <= timed + at_once
        counters = [bind.counter for bind in relay.asked]
        assert counters == sorted(set(counters))
        assert not binding.is_other_bound
        binding.close()
        relay.close()

    async def test_a_cookie_that_is_not_sealed_or_out_of_date_is_not_taken(self, start_host, relay):
        asked: list[tuple[bytes, tuple[str, int]]] = []
        circuit = relay.circuit()
        relay.main.take = lambda data, source: asked.append((data, source))
        binding = relay.bind(Probing((await start_host()).endpoint), circuit, 0)
        await until(lambda: bool(asked))
        bind, source = Bind.decode(asked[0][0]), asked[0][1]
        secret = relay.circuits[circuit][0].secret
        for counter, key in ((bind.counter, bytes(32)), (bind.counter - 1, secret)):
            bound = Bound(circuit, 0, counter, True, False, b"poisoned")
            relay.main.send(bound.encode(key), source)
        await until(lambda: len(asked) == 2)
        assert Bind.decode(asked[1][0]).cookie == bytes(8)
        binding.close()


class TestCarrying:
    async def test_connection_begins_over_a_circuit_even_with_retry(self, start_host, relay):
        """The token of a Retry is bound to the circuit, as it would be to an address."""
        here: QuicHost = await start_host()
        there: QuicHost = await start_host(QuicSettings(half_open_free_max=0))
        circuit = relay.circuit()
        bindings = [
            relay.bind(Probing(host.endpoint), circuit, side)
            for side, host in enumerate((here, there))
        ]
        await until(lambda: all(b.is_other_bound for b in bindings))
        connection = here.endpoint.dial(bindings[0].path, there.peer_id)
        async with asyncio.timeout(5):
            await connection.verified
            stream = await connection.open_stream(ECHO)
            await stream.send(b"x" * 50_000)
            assert await stream.receive() == b"x" * 50_000
        assert there.endpoint.counts.retries_sent == 1
        assert there.connections()[0].remote.startswith("relay 127.0.0.1")
        for binding in bindings:
            binding.close()
        used = relay.forwarded_count
        await stream.send(b"y")
        await asyncio.sleep(0.05)
        assert there.endpoint.counts.forwarded_dropped > 0
        assert relay.forwarded_count > used
