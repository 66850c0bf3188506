import asyncio
from collections.abc import AsyncIterator

import pytest

from protocol.datagram import Reflect, Reflected
from protocol.reach import Filtering, Mapping
from tests.transport.conftest import StartHost
from tests.transport.wires import FakeRelay, Port
from transport.errors import TimedOut
from transport.paths.probing import Probing
from transport.paths.reflector_client import ReflectorClient


class Symmetric:
    """A relay's reflectors as a host behind a symmetric NAT sees them: each names another port."""

    def __init__(self, *, lets_other_port_in: bool) -> None:
        self.lets_other_port_in = lets_other_port_in
        self.seen_host, self.seen_port = "203.0.113.7", 5000
        self.is_silent = False
        self.ports = [Port(self.taker(index)) for index in range(2)]

    def taker(self, index: int):
        def take(data: bytes, source) -> None:
            asked = Reflect.decode(data)
            if self.is_silent or (asked.from_other_port and not self.lets_other_port_in):
                return
            sender = self.ports[1 - index if asked.from_other_port else index]
            port = self.seen_port + index
            answer = Reflected(asked.transaction, self.seen_host, port, False, has_other_port=True)
            sender.send(answer.encode(), source)

        return take

    def close(self) -> None:
        for port in self.ports:
            port.close()


@pytest.fixture
async def relay() -> AsyncIterator[FakeRelay]:
    made = FakeRelay()
    yield made
    made.close()


@pytest.fixture
async def client(start_host: StartHost) -> ReflectorClient:
    return ReflectorClient(Probing((await start_host()).endpoint), answer_s=0.4)


class TestObserve:
    async def test_learns_the_address_of_the_data_socket(self, start_host: StartHost, relay):
        host = await start_host()
        observed = await ReflectorClient(Probing(host.endpoint)).observe(relay.address, 2)
        assert (observed.host, observed.port) == ("127.0.0.1", host.endpoint.udp.port)
        assert observed.source == relay.address

    async def test_answer_can_be_asked_from_the_other_port(self, client, relay):
        observed = await client.observe(relay.address, 2, from_other_port=True)
        assert observed.source == relay.other.address

    async def test_lost_questions_are_asked_again(self, client, relay):
        relay.is_cut = True
        asking = asyncio.create_task(client.observe(relay.address, 2))
        await asyncio.sleep(0.1)
        relay.is_cut = False
        assert (await asking).host == "127.0.0.1"

    async def test_silence_is_told(self, client, relay):
        relay.is_cut = True
        with pytest.raises(TimedOut, match="UDP to it may be blocked"):
            await client.observe(relay.address, 0.3)

    async def test_answers_of_others_are_not_taken(self, client, relay):
        """Only the reflector's address may answer, and only the transaction of now."""
        asked: list[bytes] = []
        relay.main.take = lambda data, source: asked.append(data)
        asking = asyncio.create_task(client.observe(relay.address, 0.6))
        await asyncio.sleep(0.05)
        transaction = Reflect.decode(asked[0]).transaction
        forged = Reflected(transaction, "192.0.2.66", 66).encode()
        unknown = Reflected(bytes(8), "192.0.2.66", 66).encode()
        target = ("127.0.0.1", client._probing.endpoint.udp.port)
        relay.other.send(forged, target)
        relay.main.send(unknown, target)
        relay.main.send(b"\x05short", target)
        with pytest.raises(TimedOut):
            await asking
        counts = client._probing.counts
        assert (counts.unexpected, counts.malformed) == (1, 1)


class TestMeasure:
    async def test_no_nat(self, client, relay):
        hints = await client.measure([relay.address, relay.other.address], listen_host="127.0.0.1")
        assert hints.mapping is Mapping.NONE
        assert hints.filtering is Filtering.OPEN
        assert len(client.observed) == 1

    async def test_cone(self, client, relay):
        hints = await client.measure([relay.address, relay.other.address], listen_host="192.0.2.1")
        assert hints.mapping is Mapping.INDEPENDENT

    @pytest.mark.parametrize("lets_in", [True, False])
    async def test_symmetric_with_its_step_and_filtering(self, client, lets_in):
        nat = Symmetric(lets_other_port_in=lets_in)
        hints = await client.measure([port.address for port in nat.ports])
        nat.close()
        assert hints.mapping is Mapping.DEPENDENT
        assert hints.filtering is (Filtering.OPEN if lets_in else Filtering.PORT_DEPENDENT)
        assert hints.ports == (5000, 5001)
        assert hints.port_delta == 1
        assert client.observed == (("203.0.113.7", 5000), ("203.0.113.7", 5001))

    async def test_one_reflector_tells_no_mapping(self, client, relay):
        hints = await client.measure([relay.address], listen_host="192.0.2.1")
        assert hints.mapping is Mapping.UNKNOWN

    async def test_no_reflector(self, client):
        assert (await client.measure([])).mapping is Mapping.UNKNOWN


class TestKeep:
    async def test_change_of_address_is_told(self, start_host: StartHost):
        client = ReflectorClient(Probing((await start_host()).endpoint), refresh_s=0.05)
        nat = Symmetric(lets_other_port_in=True)
        changes: list[tuple[tuple[str, int], ...]] = []
        keeping = asyncio.create_task(
            client.keep(
                [port.address for port in nat.ports], lambda: changes.append(client.observed)
            )
        )
        await asyncio.sleep(0.2)
        assert changes == []  # two ports seen at two reflectors are no change
        nat.seen_host = "203.0.113.8"
        await asyncio.sleep(0.2)
        keeping.cancel()
        nat.close()
        assert changes == [(("203.0.113.8", 5000), ("203.0.113.8", 5001))]
