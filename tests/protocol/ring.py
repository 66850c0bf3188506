"""A head and its hops with nothing in between: `carry` takes a step through all of them."""

from collections import deque

from protocol.frame import Meter, Open, Opened, Replay, Result, Step, StepKind
from protocol.head_session import HeadSession
from protocol.hop_session import HopSession
from protocol.identity import KeyPair
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.tensor import payload_hash
from tests.protocol.alone import DTYPE, HIDDEN, ROW_BYTES, SESSION, THREE, an_open, route_of, rows


class Ring:
    """`step` carries one step all the way round, `repair` and `replay` go to the next epoch.

    `blocks` of a prefix are offered, of which each hop has its entry of `cached`.
    """

    def __init__(
        self, spans=THREE, *, sealed=True, window=None, credit=None, capacity=200, blocks=0,
        cached=None,
    ):  # fmt: skip
        self.route = route_of(spans, sealed=sealed)
        self.dtype = DTYPE
        self._money = {"window_tokens": window, "credit_tokens": credit}
        self._capacity = capacity
        self.head = HeadSession(
            SESSION, self.route, hidden_size=HIDDEN, wire_dtype=DTYPE,
            metered=window is not None, prefix_blocks=blocks,
        )  # fmt: skip
        self.hops = [self.new_hop(index) for index in range(len(spans))]
        self.meters: deque[tuple[int, Meter]] = deque()
        for index, hop in enumerate(self.hops):
            held = cached[index] * PREFIX_BLOCK_TOKENS if cached else 0
            hop.ready(cached_tokens=held)
            self.head.accept_opened(index, Opened(SESSION, 0, index, "fake", "lan", held))

    def new_hop(self, index, **fields) -> HopSession:
        return HopSession(self.open(index, **fields), hidden_size=HIDDEN, **self._money)

    def open(self, index, capacity=None, **fields) -> Open:
        return an_open(index, self.route, capacity_tokens=capacity or self._capacity, **fields)

    def rows(self, count, *, tokens=False, fill=0) -> bytes:
        return bytes([fill]) * (count * 4 if tokens else count * ROW_BYTES)

    def send(self, kind=StepKind.DECODE, count=1, wanted=1, *, loop=0) -> Step:
        tokens = not self.route.sealed
        payload = self.rows(count, tokens=tokens)
        ticket = self.head.send_step(kind, count, wanted, payload_hash(payload), loop=loop)
        return Step(
            SESSION, self.head.epoch, kind, ticket.position, count, wanted,
            None if tokens else DTYPE, 0 if tokens else HIDDEN, payload, payload_hash(payload),
            loop,
        )  # fmt: skip

    def carry(self, step, *, until=None):
        """Take a step through the hops; gives the result, and queues the meters that fall due."""
        for index, hop in enumerate(self.hops[:until]):
            assert hop.accept_step(step)
            last = index == len(self.hops) - 1
            tokens = last and not self.route.sealed
            payload = self.rows(step.wanted if last else step.count, tokens=tokens, fill=index + 1)
            digest = payload_hash(payload)
            meter = hop.complete_step(step, bytes_out=len(payload), digest_out=digest)
            if meter:
                self.meters.append((index, meter))
            kind = Result if last else Step
            step = kind(
                SESSION, step.epoch, step.kind, step.position, step.count, step.wanted,
                None if tokens else DTYPE, 0 if tokens else HIDDEN, payload, digest,
            )  # fmt: skip
        return step

    def step(self, kind=StepKind.DECODE, count=1, wanted=1):
        return self.head.accept_result(self.carry(self.send(kind, count, wanted)))

    def truncate(self, position):
        """At the head and, at once, at every hop."""
        frame = self.head.send_truncate(position)
        for hop in self.hops:
            assert hop.accept_truncate(frame)
            hop.complete_truncate(frame)

    def repair(self, *lost, forget=(), answered=None):
        """The next epoch, other hops in the places of `lost`; replays are still to be sent.

        All hops are ready, but the head has heard of the first `answered` only.
        """
        peers = [
            KeyPair(bytes([100 + self.head.epoch, index]) * 16).peer_id if index in lost else peer
            for index, peer in enumerate(hop.peer_id for hop in self.route.hops)
        ]
        self.route = route_of(
            [h.span for h in self.route.hops], sealed=self.route.sealed, peers=peers
        )
        steps = self.head.repair(self.route, set(lost))
        for index in range(len(self.hops)):
            fields = {
                "epoch": self.head.epoch, "resume": self.head.resume, "steps": steps,
                "forget": index in forget,
            }  # fmt: skip
            held = 0
            if index in lost:
                self.hops[index] = self.new_hop(index, **fields)
            else:
                held = self.hops[index].reopen(self.open(index, **fields))
            self.hops[index].ready(cached_tokens=held)
            if answered is None or index < answered:
                opened = Opened(SESSION, self.head.epoch, index, "fake", "lan", held)
                self.head.accept_opened(index, opened)

    def replay(self, *, until=None):
        """Bring every hop to `resume`, from the head or the hop before, in one REPLAY each."""
        for index, hop in enumerate(self.hops[:until]):
            if not hop.is_behind:
                continue
            fill = index
            frame = rows(
                Replay, hop.position, self.head.resume - hop.position, epoch=self.head.epoch,
                fill=fill,
            )  # fmt: skip
            if index == 0:
                self.head.replayed(frame.payload_sha256)
            else:
                self.hops[index - 1].replayed_onward(frame.payload_sha256)
            assert hop.accept_replay(frame)
            hop.complete_replay(frame)

    def deliver_meters(self):
        while self.meters:
            self.head.accept_meter(*self.meters.popleft())

    def pay(self):
        """Deliver meters and receipts; gives what is paid."""
        self.deliver_meters()
        due = self.head.payable()
        for index, meter in due:
            self.hops[index].accept_receipt(meter.tokens)
        return due

    def close(self, *, cancelled=False, keep=()):
        close = self.head.close(cancelled=cancelled, keep=keep)
        finals = [hop.accept_close(close) for hop in self.hops]
        for index, meter in enumerate(finals):
            if meter:
                self.meters.append((index, meter))
        self.deliver_meters()
