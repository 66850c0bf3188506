"""What a neighbour does on a link: who may attach, and what becomes of nonsense."""

import asyncio

import numpy as np
import pytest

from node.serve.links import LINK_END_GRACE_S, Link
from protocol.errors import ErrorCode, NeighbourGone
from protocol.frame import (
    PROTOCOL,
    Attach,
    ErrorFrame,
    LinkRole,
    Opened,
    Probe,
    Replay,
    Step,
    StepKind,
    Truncate,
    decode_frame,
    encode_frame,
)
from protocol.session import OPEN_TIMEOUT_S
from protocol.tensor import WireDtype, payload_hash
from tests.node.serve.rig import HIDDEN, make_rig, spans, task_names, wait_for, wait_freed
from tests.node.serve.scripted_head import ScriptedHead
from transport.errors import StreamReset
from transport.testing import FakeNetwork, run_virtual


class Neighbour:
    """A scripted hop before the last one of two."""

    def __init__(self, rig, head: ScriptedHead) -> None:
        self.host = rig.network.host()
        self.head = head
        self.stream = None

    @property
    def peer_id(self):
        return self.host.peer_id

    async def attach(self, *, epoch=0, hop_index=1, role=LinkRole.STEPS) -> Opened:
        provider = self.head.route[1]
        connection = await self.host.connect(provider.peer_id, provider.host.addresses, timeout_s=1)
        self.stream = await connection.open_stream(PROTOCOL)
        attach = Attach(self.head.session_id, epoch, hop_index, role)
        await self.stream.send(*encode_frame(attach))
        return decode_frame(await self.stream.receive())

    def rows(self, kind, position: int, count: int, *, value=1.0, epoch=0):
        payload = np.full((count, HIDDEN), value, "<f4").tobytes()
        return kind(
            self.head.session_id, epoch, StepKind.PREFILL, position, count,
            0 if kind is Replay else 1, WireDtype.FP32, HIDDEN, payload, payload_hash(payload),
        )  # fmt: skip

    async def send(self, frame) -> None:
        await self.stream.send(*encode_frame(frame))


async def last_hop(rig) -> tuple[ScriptedHead, Neighbour]:
    """A hop whose upstream neighbour is the test; opened, but nothing has attached yet."""
    route = rig.providers(2)
    head = ScriptedHead(rig, route)
    neighbour = Neighbour(rig, head)
    line = await head.line(route[1])
    await line.send(head.frame(1, previous=neighbour.peer_id))
    return head, neighbour


NONSENSE = {
    "garbage": b"\x0c garbage",
    "half a step": b"\x04" + bytes(30),
    "another frame": Probe(bytes(16), 1),
    "a step out of order": (Step, 5, 3, {}),
    "an epoch to come": (Step, 0, 3, {"epoch": 9}),
    "a replay of rows that are not": (Replay, 0, 3, {}),
    "rows beyond the capacity": (Step, 0, 3, {"session": True}),
    "not a number": (Step, 0, 3, {"value": float("nan")}),
}


@pytest.mark.parametrize("what", NONSENSE, ids=str)
async def test_nonsense_on_a_link_is_its_sender_s_fault(tmp_path, what):
    async with make_rig(tmp_path) as rig:
        head, neighbour = await last_hop(rig)
        await neighbour.attach()
        match NONSENSE[what]:
            case bytes() as data:
                await neighbour.stream.send(data)
            case (kind, position, count, options) if "session" not in options:
                await neighbour.send(neighbour.rows(kind, position, count, **options))
            case tuple():
                for position in range(0, 1000, 200):
                    await neighbour.send(neighbour.rows(Step, position, 200))
            case frame:
                await neighbour.send(frame)
        error = await head.error(head.route[1])
        assert (error.code, error.about) == (ErrorCode.MALFORMED, neighbour.peer_id)
        assert not head.lines[head.route[1]].is_over
        await head.close(whom=[head.route[1]])
        await wait_freed(head.route[1])


async def test_too_many_steps_sent_ahead_are_nonsense(tmp_path):
    async with make_rig(tmp_path) as rig:
        head, neighbour = await last_hop(rig)
        head.route[1].engine._step_delay_s = 1.0
        await neighbour.attach()
        for position in range(30):
            await neighbour.send(neighbour.rows(Step, position, 1))
        assert (await head.error(head.route[1])).about == neighbour.peer_id


async def test_truncates_may_stand_among_eight_steps_in_flight(tmp_path):
    async with make_rig(tmp_path) as rig:
        head, neighbour = await last_hop(rig)
        head.route[1].engine._step_delay_s = 0.02
        await neighbour.attach()
        for _ in range(8):
            await neighbour.send(neighbour.rows(Step, 0, 2))
            await neighbour.send(Truncate(head.session_id, 0, 0))
        await head.result(8)
        assert not head.lines[head.route[1]].count(ErrorFrame)
        assert (await head.probe(head.route[1])).rows_in == 0


def refused(tmp_path, **options) -> None:
    """An ATTACH with such options comes to nothing."""

    async def attach() -> None:
        async with make_rig(tmp_path) as rig:
            head, neighbour = await last_hop(rig)
            await (head.lines[head.route[1]]).wait(Opened)
            if options.pop("stranger", False):
                neighbour.host = rig.network.host()
            with pytest.raises(StreamReset):
                async with asyncio.timeout(OPEN_TIMEOUT_S + 1):
                    await neighbour.attach(**options)

    run_virtual(attach())


@pytest.mark.parametrize(
    "options",
    [
        {"epoch": 1},
        {"hop_index": 0},
        {"role": LinkRole.MIRROR},
        {"role": LinkRole.LOOP},
        {"stranger": True},
    ],
    ids=str,
)
def test_a_link_that_nobody_expects_is_refused(tmp_path, options):
    refused(tmp_path, **options)


async def test_a_second_link_is_refused(tmp_path):
    async with make_rig(tmp_path) as rig:
        head, neighbour = await last_hop(rig)
        await neighbour.attach()
        with pytest.raises(StreamReset):
            await neighbour.attach()
        assert (await head.probe(head.route[1])).rows_in == 0


async def test_an_attach_waits_for_its_open_and_learns_the_rows(tmp_path):
    async with make_rig(tmp_path) as rig:
        head, neighbour = await last_hop(rig)
        await neighbour.attach()
        await neighbour.send(neighbour.rows(Step, 0, 30))
        await head.result(1)
        attaching = asyncio.create_task(neighbour.attach(epoch=1))
        await asyncio.sleep(0.05)
        assert not attaching.done()
        await head.lines[head.route[1]].send(
            head.frame(1, previous=neighbour.peer_id, epoch=1, resume=20, steps=1)
        )
        assert (await attaching).cached_tokens == 20


async def test_a_link_that_is_given_up_before_its_open_waits_no_longer(tmp_path):
    async with make_rig(tmp_path) as rig:
        head, neighbour = await last_hop(rig)
        attaching = asyncio.create_task(neighbour.attach(epoch=1))
        await wait_for(lambda: "LinkBoard._wait_expected" in str(task_names()) or neighbour.stream)
        await asyncio.sleep(0.02)
        neighbour.stream.reset(1)
        await asyncio.gather(attaching, return_exceptions=True)
        await asyncio.sleep(0.02)
        assert not head.route[1].server._parts.links._arrivals


async def test_a_link_ends_with_its_epoch(tmp_path):
    async with make_rig(tmp_path) as rig:
        head, neighbour = await last_hop(rig)
        await neighbour.attach()
        old = neighbour.stream
        frame = head.frame(1, previous=neighbour.peer_id, epoch=1)
        await head.lines[head.route[1]].send(frame)
        assert await old.receive() is None
        await neighbour.attach(epoch=1)


async def test_rows_that_a_standby_cannot_take_are_nobody_s_loss(tmp_path):
    async with make_rig(tmp_path) as rig:
        head = ScriptedHead(rig, rig.providers(2))
        provider, neighbour = head.route[1], Neighbour(rig, head)
        await (await head.line(provider)).send(
            head.frame(1, previous=neighbour.peer_id, standby=True)
        )
        await neighbour.attach(role=LinkRole.MIRROR)
        await neighbour.send(neighbour.rows(Replay, 0, 7))
        await wait_for(lambda: provider.statistics.rows == 7)
        await neighbour.send(neighbour.rows(Replay, 7, 3, value=float("nan")))
        await asyncio.sleep(0.02)
        assert (await head.probe(provider)).rows_out == 7
        assert not head.lines[provider].count(ErrorFrame)


class TestLink:
    def test_a_peer_that_stops_reading_gets_a_moment_and_one_that_is_gone_does_not(self):
        async def lose(*, is_gone: bool) -> float:
            network = FakeNetwork()
            here, there = network.host(), network.host()
            there.set_handler(PROTOCOL, self._stay if is_gone else self._leave)
            connection = await here.connect(there.peer_id, there.addresses, timeout_s=1)
            link = Link(await connection.open_stream(PROTOCOL))
            await asyncio.sleep(0.1)
            if is_gone:
                await there.close()
                await asyncio.sleep(0.1)
            before = asyncio.get_running_loop().time()
            with pytest.raises(NeighbourGone) as caught:
                await link.send(Probe(bytes(16), 1))
            assert caught.value.public_key == there.peer_id.public_key
            return asyncio.get_running_loop().time() - before

        assert run_virtual(lose(is_gone=False)) == pytest.approx(LINK_END_GRACE_S)
        assert run_virtual(lose(is_gone=True)) == 0

    @staticmethod
    async def _leave(stream) -> None:
        """Return at once: nobody reads."""

    @staticmethod
    async def _stay(stream) -> None:
        await stream.receive()


async def test_a_slow_hop_makes_the_sender_of_a_replay_wait(tmp_path):
    async with make_rig(tmp_path) as rig:
        head, neighbour = await last_hop(rig)
        provider = head.route[1]
        provider.engine._step_delay_s = 0.05
        await neighbour.attach()
        await head.lines[provider].send(
            head.frame(1, previous=neighbour.peer_id, epoch=1, resume=300)
        )
        await neighbour.attach(epoch=1)
        for position in range(0, 300, 10):
            await neighbour.send(neighbour.rows(Replay, position, 10, epoch=1))
        await asyncio.sleep(0.03)
        behind = (await head.probe(provider)).rows_in
        assert 0 < behind < 200
        await wait_for(lambda: provider.statistics.rows == 300)
        assert provider.statistics.steps <= 300 // 10 / 3


async def test_a_stream_that_begins_with_anything_else_is_reset(tmp_path):
    async with make_rig(tmp_path) as rig:
        provider = rig.provider(spans(1)[0])
        host = rig.network.host()
        connection = await host.connect(provider.peer_id, provider.host.addresses, timeout_s=1)
        stream = await connection.open_stream(PROTOCOL)
        await stream.send(*encode_frame(Probe(bytes(16), 1)))
        with pytest.raises(StreamReset):
            await stream.receive()
