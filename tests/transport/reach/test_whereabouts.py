"""What a node tells of where it is: interfaces, reflectors' sight, mapped ports, and changes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from protocol.errors import LocalProtocolError
from protocol.reach import CANDIDATES_MAX, CandidateKind, Filtering, Mapping, NATHints
from relay.datagrams import RelayDatagrams
from relay.resources import Resources
from tests.transport.conftest import StartHost
from tests.transport.control_hosts import until
from transport.paths.probing import Probing
from transport.paths.reflector_client import ReflectorClient
from transport.reach.nat_pmp import Mapped
from transport.reach.port_mapping import PortMapper
from transport.reach.whereabouts import Whereabouts

ONE, OTHER = ("198.51.100.1", 4001), ("198.51.100.1", 4002)
SEEN = ("203.0.113.5", 40_001)


class Reflectors:
    """Says what it is told to say; counts questions. The interface of ReflectorClient."""

    def __init__(self, *seen: tuple[str, int], mapping: Mapping = Mapping.INDEPENDENT) -> None:
        self.seen = seen
        self.mapping = mapping
        self.hints = NATHints()
        self.observed: tuple[tuple[str, int], ...] = ()
        self.asked: list[tuple[Sequence, bool]] = []
        self.kept = 0
        self.change: Callable[[], None] = lambda: None
        self.error: Exception | None = None

    async def measure(
        self, reflectors: Sequence, *, listen_host: str = "", with_filtering: bool = True
    ) -> NATHints:
        self.asked.append((tuple(reflectors), with_filtering))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.observed = self.seen
        filtering = Filtering.OPEN if with_filtering else self.hints.filtering
        self.hints = NATHints(self.mapping if self.seen else Mapping.UNKNOWN, filtering)
        return self.hints

    async def keep(self, reflectors: Sequence, on_change: Callable[[], None]) -> None:
        self.kept += 1
        self.change = on_change
        await asyncio.Event().wait()


def whereabouts(
    reflectors: Reflectors, listen_host: str = "192.0.2.7", mapper: PortMapper | None = None
) -> Whereabouts:
    made = Whereabouts(reflectors, listen_host, 4001, mapper, lambda: changes.append(made.hints))
    changes: list[NATHints] = []
    made.changes = changes
    return made


def kinds(where: Whereabouts) -> list[tuple[CandidateKind, str]]:
    return [(c.kind, c.host) for c in where.candidates()]


async def opens(inside_port: int, lifetime_s: int) -> Mapped:
    return Mapped("8.8.4.4", 5001, 3600)


class TestCandidates:
    async def test_come_from_interface_then_reflectors_then_mapped_port(self):
        mapper = PortMapper(4001, lambda: None, {"fake": opens})
        mapper.start()
        await until(lambda: mapper.mapping is not None)
        where = whereabouts(Reflectors(SEEN), "192.168.1.5", mapper)
        await where.measure([ONE])
        assert kinds(where) == [
            (CandidateKind.LAN, "192.168.1.5"),
            (CandidateKind.OBSERVED, SEEN[0]),
            (CandidateKind.MAPPED, "8.8.4.4"),
        ]
        await mapper.close()

    async def test_global_ipv6_address_is_one_of_its_own_kind(self):
        assert kinds(whereabouts(Reflectors(), "2a00:1450::7")) == [
            (CandidateKind.IPV6, "2a00:1450::7")
        ]
        assert kinds(whereabouts(Reflectors(), "fd00::7")) == [(CandidateKind.LAN, "fd00::7")]

    async def test_loopback_is_told_only_if_there_is_nothing_else(self):
        where = whereabouts(Reflectors(SEEN), "127.0.0.1")
        assert kinds(where) == [(CandidateKind.LAN, "127.0.0.1")]
        await where.measure([ONE])
        assert kinds(where) == [(CandidateKind.OBSERVED, SEEN[0])]

    async def test_address_seen_from_outside_that_is_our_own_stays_first_and_once(self):
        seen = [("198.18.0.9", 9), ("192.0.2.7", 4001)]
        where = whereabouts(Reflectors(*seen))
        await where.measure([ONE])
        assert [host for _, host in kinds(where)] == ["192.0.2.7", "198.18.0.9"]

    async def test_are_never_more_than_a_message_may_carry(self):
        where = whereabouts(Reflectors(*((f"203.0.113.{n}", 7) for n in range(1, 30))))
        await where.measure([ONE])
        assert len(where.candidates()) == CANDIDATES_MAX

    @pytest.mark.parametrize("lie", [("224.0.0.1", 5), ("0.0.0.0", 5), ("203.0.113.1", 0)])
    async def test_reflector_that_lies_is_not_believed(self, lie: tuple[str, int]):
        where = whereabouts(Reflectors(lie, SEEN))
        await where.measure([ONE])
        assert where.observed == (SEEN,)
        assert [host for _, host in kinds(where)] == ["192.0.2.7", SEEN[0]]
        assert where.outside() == (SEEN,)


class TestOutside:
    async def test_symmetric_nats_port_is_no_address_to_dial(self):
        where = whereabouts(Reflectors(SEEN, mapping=Mapping.DEPENDENT))
        await where.measure([ONE])
        assert where.outside() == ()

    async def test_nobody_was_asked_yet(self):
        where = whereabouts(Reflectors(SEEN))
        assert where.outside() == ()
        assert await where.measure() == NATHints()


class TestMeasuring:
    async def test_silence_of_all_reflectors_means_that_udp_is_blocked(self):
        reflectors = Reflectors()
        where = whereabouts(reflectors)
        hints = await where.measure([ONE])
        assert hints.mapping is Mapping.BLOCKED
        assert where.hints.mapping is Mapping.BLOCKED

    async def test_is_asked_once_a_minute_and_again_of_new_reflectors_or_after_a_change(self):
        reflectors = Reflectors(SEEN)
        where = whereabouts(reflectors)
        for _ in range(3):
            await where.measure([ONE])
        assert len(reflectors.asked) == 1
        await where.measure([OTHER])
        assert len(reflectors.asked) == 2
        where.network_changed()
        await where.measure([OTHER])
        assert len(reflectors.asked) == 3

    async def test_concurrent_questions_are_one(self):
        reflectors = Reflectors(SEEN)
        where = whereabouts(reflectors)
        await asyncio.gather(*(where.measure([ONE]) for _ in range(10)))
        assert len(reflectors.asked) == 1

    async def test_too_many_questions_at_once_are_no_error_of_the_caller(self):
        reflectors = Reflectors(SEEN)
        reflectors.error = LocalProtocolError("At most 256 reflectors are asked at once.")
        where = whereabouts(reflectors)
        assert await where.measure([ONE]) == NATHints()


class TestKeeping:
    async def test_own_reflectors_are_measured_then_watched(self):
        reflectors = Reflectors(SEEN)
        where = whereabouts(reflectors)
        where.use([ONE, OTHER])
        await until(lambda: reflectors.kept == 1)
        assert reflectors.asked == [((ONE, OTHER), False), ((ONE, OTHER), True)]
        assert where.changes
        where.use([ONE, OTHER])  # the same: nothing is asked anew
        await asyncio.sleep(0.01)
        assert reflectors.kept == 1
        await where.close()

    async def test_blocked_udp_stays_known_as_blocked(self):
        reflectors = Reflectors()
        where = whereabouts(reflectors)
        where.use([ONE])
        await asyncio.sleep(0.05)
        assert where.hints.mapping is Mapping.BLOCKED
        assert len(reflectors.asked) == 1
        await where.close()

    async def test_another_outside_address_is_measured_and_told(self):
        reflectors = Reflectors(SEEN)
        where = whereabouts(reflectors)
        where.use([ONE, OTHER])
        await until(lambda: reflectors.kept == 1)
        told = len(where.changes)
        reflectors.seen = (("203.0.113.99", 50_000),)
        reflectors.hints = NATHints()
        reflectors.change()
        await until(lambda: reflectors.kept == 2)
        assert where.hints.mapping is Mapping.INDEPENDENT
        assert where.outside() == (("203.0.113.99", 50_000),)
        assert len(where.changes) > told
        await where.close()

    async def test_other_reflectors_replace_those_that_were_watched(self):
        reflectors = Reflectors(SEEN)
        where = whereabouts(reflectors)
        before = asyncio.all_tasks()
        where.use([ONE])
        await until(lambda: reflectors.kept == 1)
        where.use([OTHER])
        await until(lambda: reflectors.kept == 2)
        where.use([])
        await until(lambda: asyncio.all_tasks() == before)
        await where.close()

    async def test_close_ends_everything_and_nothing_begins_afterwards(self):
        reflectors = Reflectors(SEEN)
        where = whereabouts(reflectors)
        before = asyncio.all_tasks()
        where.use([ONE])
        await asyncio.sleep(0)
        await where.close()
        where.use([OTHER])
        assert asyncio.all_tasks() == before


class TestOverSockets:
    @pytest.fixture
    async def relay(self) -> AsyncIterator[RelayDatagrams]:
        made = RelayDatagrams.open("127.0.0.1", (0, 0), Resources(), buffer_bytes=65536)
        made.start()
        yield made
        made.close()

    async def test_host_without_a_nat_sees_its_own_address(
        self, start_host: StartHost, relay: RelayDatagrams
    ):
        host = await start_host()
        client = ReflectorClient(Probing(host.endpoint), answer_s=0.3)
        where = Whereabouts(client, "127.0.0.1", host.port, None, lambda: None)
        where.use([("127.0.0.1", port) for port in relay.ports])
        await until(lambda: where.hints.mapping is Mapping.NONE)
        assert where.observed == (("127.0.0.1", host.port),)
        await where.close()

    async def test_relay_that_is_gone_looks_like_blocked_udp(
        self, start_host: StartHost, relay: RelayDatagrams
    ):
        client = ReflectorClient(Probing((await start_host()).endpoint), answer_s=0.2)
        where = Whereabouts(client, "127.0.0.1", 4001, None, lambda: None)
        ports = relay.ports
        relay.close()
        hints = await where.measure([("127.0.0.1", port) for port in ports])
        assert hints.mapping is Mapping.BLOCKED
