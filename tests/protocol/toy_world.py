"""One session of a toy head and toy hops, with all that is under way between them.

Every choice of what happens next is the test's: which stream delivers a frame, which hop works.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol.identity import KeyPair, PeerId
from protocol.limits import PREFIX_BLOCK_TOKENS
from protocol.session import SessionState
from tests.protocol.toy_answer import ToyAnswer
from tests.protocol.toy_head import LIVING
from tests.protocol.toy_hop import ToyHop
from tests.protocol.toy_model import ROW_BYTES, ToyEngine, Truth, cut, embed, rows_of, token_bytes
from tests.protocol.toy_streams import End, Party, stream

PEERS = [KeyPair(bytes([n]) * 32).peer_id for n in range(1, 200)]
ACTIONS_MAX = 50_000
"""A world that is still busy after so many deliveries goes round in circles."""
REPAIRS_MAX = 40
LAYERS = 8


@dataclass(frozen=True)
class Plan:
    """What a world is made of. `cached`: blocks that each hop has of an earlier session."""

    hop_count: int = 3
    sealed: bool = True
    window: int | None = None
    credit: int | None = None
    prompt_rows: int = 7
    capacity: int = 60
    log_rows: tuple[int, ...] = (10_000,)
    """How much the log of each hop holds, in turn."""
    funded: int | None = None
    """Rows that are paid for at first; None: all."""
    cached: tuple[int, ...] = ()


class World:
    """`head.hops` are those of the route now; `hops` are all there ever were."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.hops: list[ToyHop] = []
        self._ends: list[End] = []
        spans = cut(LAYERS, plan.hop_count)
        prompt = [(7 * n + 3) % 50 for n in range(plan.prompt_rows)]
        self._earlier = self._inputs(
            spans, prompt[: PREFIX_BLOCK_TOKENS * max(plan.cached or (0,))]
        )
        self.head = ToyAnswer(
            PEERS[0], Truth(prompt, spans, sealed=plan.sealed), spans, spawn=self._spawn,
            connect=self.connect, prompt_rows=plan.prompt_rows, capacity=plan.capacity,
            sealed=plan.sealed, metered=plan.window is not None,
            prefix_blocks=max(plan.cached, default=0), funded_rows=plan.funded,
        )  # fmt: skip

    def connect(self, opener: Party, peer: PeerId, *, is_link: bool) -> End:
        hop = next(hop for hop in self.hops if hop.peer == peer)
        near, far = stream(opener, hop)
        near.is_link = far.is_link = is_link
        self._ends += [near, far]
        hop.accept_stream(far)
        if hop.is_over:
            near.lose(0)
        return near

    def choices(self) -> list[Callable[[], None]]:
        """All that can happen next without a fault."""
        self._ends = [end for end in self._ends if not end.is_over]
        delivers = [end.deliver for end in self._ends if end.can_deliver]
        return delivers + [hop.work for hop in self.hops if hop.can_work]

    def busy_ends(self) -> list[End]:
        """Ends of streams that have a frame to deliver."""
        return [end for end in self._ends if end.inbox and not end.is_over]

    def links(self) -> list[End]:
        """Ends of streams that carry rows."""
        return [
            end for end in self._ends
            if end.is_link and not end.is_over and end.owner.is_listening
        ]  # fmt: skip

    def happen(self, picks: Sequence[int]) -> None:
        for pick in picks:
            if not (choices := self.choices()):
                return
            choices[pick % len(choices)]()

    def flush(self) -> None:
        """Deliver and run all there is, the oldest stream first."""
        for _ in range(ACTIONS_MAX):
            if not (choices := self.choices()):
                return
            for action in choices[:1]:
                action()
        raise AssertionError("the world does not come to rest")

    def rest(self) -> None:
        """Deliver all there is, and let the head look at it and take back wrong drafts."""
        self.flush()
        while self.head.read():
            self.flush()

    def recover(self) -> None:
        """No more faults: everybody wakes, all is delivered, and what is lost is repaired."""
        for hop in self.hops:
            hop.is_stalled = False
        self.head.deaf_to = None
        for _ in range(REPAIRS_MAX):
            self.rest()
            if not self.head.needs_repair:
                return
            self.head.repair()
        raise AssertionError("repairs do not come to an end")

    def assert_alive(self) -> None:
        """Once recovered: everything is back, and the session goes on."""
        head = self.head
        assert head.state is SessionState.READY
        assert [hop.state for hop in head.hops] == [SessionState.READY] * len(head.hops)
        assert head.session.in_flight == 0, "a step never came back"
        assert not head.unread
        # beyond what a hop does on credit: so payment must go on too
        goal = max(head.known, head.session.position) + 2 + (self.plan.credit or 0)
        while (before := head.session.position) < min(goal, self.plan.capacity):
            if head.session.position == head.capacity:
                head.extend(8)
                self.recover()
            head.step(1, [True])
            self.recover()
            assert head.session.in_flight == 0
            assert head.session.position > before

    def assert_closed(self) -> None:
        """After a close, once all is delivered."""
        head = self.head
        assert head.state in (SessionState.CLOSED, SessionState.FAILED)
        for hop in self.hops:
            assert hop.is_over, f"a hop is still {hop.state}"
        for index, hop in enumerate(head.hops):
            if hop.state is SessionState.CLOSED and self.plan.window is not None:
                assert index in head.paid or hop.session.carried.tokens == 0

    def finish(self) -> None:
        self.recover()
        if self.head.state in LIVING:
            self.assert_alive()
            self.head.close()
        self.recover()
        self.assert_closed()

    def _spawn(self, index: int) -> ToyHop:
        plan = self.plan
        is_first = len(self.hops) < plan.hop_count
        blocks = plan.cached[index % len(plan.cached)] if is_first and plan.cached else 0
        hop = ToyHop(
            PEERS[1 + len(self.hops)], self.connect, window=plan.window, credit=plan.credit,
            log_rows=plan.log_rows[len(self.hops) % len(plan.log_rows)],
            earlier=self._earlier[index][: blocks * PREFIX_BLOCK_TOKENS] if blocks else (),
        )  # fmt: skip
        self.hops.append(hop)
        return hop

    def _inputs(self, spans, prompt: list[int]) -> list[list[bytes]]:
        """What every hop has been given for these tokens."""
        sealed = self.plan.sealed
        payload = embed(prompt) if sealed else token_bytes(prompt)
        inputs = [rows_of(payload, ROW_BYTES if sealed else 4)]
        for span in spans:
            inputs.append(ToyEngine(span).run(0, inputs[-1]))
        return inputs
