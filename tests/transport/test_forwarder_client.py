import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from protocol.datagram import Bind, Bound
from transport.forwarder_client import BindingState, CircuitBinding
from transport.path_address import CircuitPath
from transport.probing import Probing
from transport.quic import QuicHost
from transport.settings import QuicSettings

from .conftest import ECHO, StartHost
from .wires import FakeRelay


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
