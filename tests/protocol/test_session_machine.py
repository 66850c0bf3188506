"""One session through any order of deliveries, deaths, stalls and repairs, against the truth.

Streams deliver in order but with any delay; hops die, stall for long, and wake when they have been
replaced; links are cut; frames come twice. Whatever happens: every token is that of an undisturbed
run, nobody is paid for more than arrived, and once faults stop the session goes on or ends.
"""

import contextlib
import sys

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.errors import LocalProtocolError
from protocol.frame import Extended, Meter, Opened, Replay, Result, Step, Truncate, decode_frame
from protocol.session import SessionState
from tests.protocol.toy_head import LIVING
from tests.protocol.toy_world import Plan, World

NUMBERS = st.integers(0, 255)
PICKS = st.binary(min_size=4, max_size=40)
"""Each byte says which of all that can happen does."""
WINDOWS = st.sampled_from([(None, None), (1, 1), (3, 3), (4, 40)])
LOGS = st.sampled_from([(10_000,), (6, 10_000), (10_000, 4, 9), (3,)])
FUNDED = st.sampled_from([None, None, 0, 3, 20])
"""Rows beyond the prompt that are paid for at first; None: all."""
FAULTS = (
    "dies", "stalls", "is given up", "loses a link", "sends twice", "is stood by", "is not heard",
)  # fmt: skip
REPAIRS_MAX = 12


class SessionMachine(RuleBasedStateMachine):
    """The world decides nothing: each rule is one thing that may happen next."""

    @initialize(
        hop_count=st.integers(1, 4), sealed=st.booleans(), money=WINDOWS, log_rows=LOGS,
        prompt_rows=st.integers(1, 12), capacity=st.sampled_from([16, 60]), opens=st.booleans(),
        funded=FUNDED,
    )  # fmt: skip
    def begin(self, hop_count, sealed, money, log_rows, prompt_rows, capacity, opens, funded):
        plan = Plan(
            hop_count, sealed, *money, prompt_rows=prompt_rows, log_rows=log_rows,
            capacity=capacity, funded=None if funded is None else prompt_rows + funded,
        )  # fmt: skip
        self.start(plan, opens)

    def start(self, plan: Plan, opens: bool):
        self.world = World(plan)
        self.head = self.world.head
        if opens:
            self.world.flush()

    @rule(picks=PICKS)
    def happen(self, picks):
        self.world.happen(picks)

    @rule()
    def all_happens(self):
        self.world.flush()

    @precondition(lambda self: self.head.state is SessionState.READY)
    @rule(picks=PICKS)
    def answer(self, picks):
        """Steps, drafts, loops and a look at what has come, between any deliveries."""
        for pick in picks:
            kind, number = pick % 8, pick // 8
            if kind < 2:
                self.head.step(1 + number % 4 * kind, [bool(number & 4), bool(number & 8)])
            elif kind == 2:
                self.head.loop(number)
            elif kind == 3:
                self.head.read()
            else:
                self.world.happen([number])

    @precondition(lambda self: self.head.session.funded_rows is not None)
    @rule(rows=st.integers(1, 12), picks=PICKS)
    def pay_for_more(self, rows, picks):
        """Between any deliveries, so that a repair may come before all hops have confirmed it."""
        self.head.extend(rows)
        self.world.happen(picks)

    @precondition(lambda self: self.head.state is SessionState.READY)
    @rule(back=st.integers(0, 6))
    def truncate(self, back):
        with contextlib.suppress(LocalProtocolError):  # between steps only
            self.head.truncate(max(0, self.head.session.position - back))

    @precondition(lambda self: self.head.state in LIVING and self.head.repairs < REPAIRS_MAX)
    @rule(fault=st.sampled_from(FAULTS), which=NUMBERS, kept=NUMBERS)
    def a_hop(self, fault, which, kept):
        hops = self.world.hops[-6:]
        hop = hops[which % len(hops)]
        match fault:
            case "dies":
                hop.die(lambda frames: kept % (frames + 1))
            case "stalls":
                hop.is_stalled = True
            case "is given up":
                # it may be alive, and go on for as long as nobody tells it
                self.head.lost.add(which % len(self.head.hops))
                self.head.repair()
            case "loses a link":
                self._cut_link(which, kept)
            case "sends twice":
                self._double_frame(which)
            case "is not heard":
                self._do_not_hear(which, kept)
            # nobody is kept warm on a route that is paid for
            case "is stood by" if len(self.head.hops) > 1 and self.world.plan.funded is None:
                self.head.repair(standby_of=1 + which % (len(self.head.hops) - 1))

    @rule(which=NUMBERS)
    def a_hop_wakes(self, which):
        hops = self.world.hops
        hops[which % len(hops)].is_stalled = False
        self.head.deaf_to = None

    @precondition(lambda self: self.head.needs_repair)
    @rule()
    def repair(self):
        self.head.repair()

    @rule(chance=st.integers(0, 9))
    def close(self, chance):
        if chance == 5:
            self.head.close()

    def _cut_link(self, which: int, kept: int):
        if links := self.world.links():
            end = links[which % len(links)]
            for side in (end, end.other):
                side.lose(kept % (len(side.inbox) + 1))

    def _do_not_hear(self, which: int, count: int):
        """Nothing of one hop comes through to the head, while the others go on, in a loop too."""
        for _ in range(10):
            if self.head.session.position < self.head.prompt_rows:
                self.head.step(8, [True])
            self.world.rest()
        self.head.deaf_to = self.head.hops[which % len(self.head.hops)]
        self.head.loop(count)
        self.world.flush()
        if count % 4 == 0:
            self.head.repair()

    def _double_frame(self, which: int):
        """The head doubles nothing; a result that another step may take as its own is a lie."""
        kinds = (
            Step,
            Replay,
            Truncate,
            Opened,
            Meter,
            Extended,
            *[Result] * (self.head.truncations == 0),
        )
        kind = kinds[which % len(kinds)]
        for end in self.world.busy_ends():
            if end.other.owner is not self.head:
                for at, data in enumerate(end.inbox):
                    if isinstance(decode_frame(data), kind):
                        end.inbox.insert(at + 1, data)
                        end.is_tampered = True
                        return

    @invariant()
    def nobody_is_paid_for_more_than_he_has_done(self):
        if hasattr(self, "world"):
            for hop in self.world.hops:
                if hop.session is not None:
                    assert hop.session.tokens_paid <= hop.session.carried.tokens

    @invariant()
    def no_row_is_sent_beyond_what_every_hop_has_confirmed(self):
        if hasattr(self, "world") and (funded := self.head.session.funded_rows) is not None:
            assert self.head.session.position <= funded
            for hop in self.head.hops:
                if hop.session is not None:
                    assert hop.funded_rows >= funded
                    assert hop.session.position <= funded

    def teardown(self):
        if hasattr(self, "world") and sys.exc_info()[0] is None:
            self.world.finish()


class EarlierRowsMachine(SessionMachine):
    """The same, where hops have some of the prompt from an earlier session, and keep it after."""

    @initialize(
        hop_count=st.integers(1, 3), sealed=st.booleans(), money=WINDOWS, log_rows=LOGS,
        prompt_rows=st.integers(130, 136), opens=st.booleans(),
        cached=st.tuples(*[st.integers(0, 2)] * 3), funded=FUNDED,
    )  # fmt: skip
    def begin(self, hop_count, sealed, money, log_rows, prompt_rows, opens, cached, funded):
        plan = Plan(
            hop_count, sealed, *money, prompt_rows=prompt_rows, log_rows=log_rows,
            capacity=180, cached=cached[:hop_count],
            funded=None if funded is None else prompt_rows + funded,
        )  # fmt: skip
        self.start(plan, opens)


SETTINGS = settings(
    max_examples=120, report_multiple_bugs=False, stateful_step_count=40, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
SessionMachine.TestCase.settings = SETTINGS
TestSessionMachine = SessionMachine.TestCase
EarlierRowsMachine.TestCase.settings = SETTINGS
TestEarlierRowsMachine = EarlierRowsMachine.TestCase
