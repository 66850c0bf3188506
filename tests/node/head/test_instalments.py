"""Paying for an answer while it runs: asked for ahead, through repairs, and to its last token."""

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from node.errors import MarketRefused, MarketUnreachable, PaymentRequired
from node.head.instalments import AnswerUnfunded, Instalments
from node.router.base import RoutePlan, Router, RouteRequest
from protocol.errors import SessionError
from protocol.identity import KeyPair
from protocol.route import Hop, Route, Span
from protocol.tensor import WireDtype
from tests.marketplace.world import manifest

PEER = KeyPair(bytes(32)).peer_id
PROMPT, FIRST = 10, 16
AWAY = MarketRefused(503, "database_unavailable", "The database does not answer.")
CONFLICT = MarketRefused(409, "conflict", "The route was repaired meanwhile.")


def request_of(max_tokens=200, drafted=8):
    return RouteRequest(
        manifest(), PROMPT, max_tokens, WireDtype.BF16, sealed=True, api_key="key",
        drafted_tokens=drafted, funded_tokens=FIRST,
    )  # fmt: skip


def first_plan():
    route = Route.of("tiny", 12, [Hop(PEER, Span(0, 12))], sealed=True)
    return RoutePlan(bytes(16), route, ("fake",), spare_rows=8, funded_rows=PROMPT + FIRST)


@dataclass
class Market(Router):
    """Grants what a balance of so many tokens covers; `before` happens while it is asked."""

    balance: int = 10**6
    asked: list[int] = field(default_factory=list)
    before: list = field(default_factory=list)

    async def extend(self, plan, request, *, funded_tokens, drafted_tokens):
        self.asked.append(funded_tokens)
        await asyncio.sleep(0)
        if self.before:
            self.before.pop(0)()
        if funded_tokens > self.balance:
            raise PaymentRequired(402, "insufficient_funds", "no money")
        return replace(plan, funded_rows=PROMPT + funded_tokens, spare_rows=drafted_tokens)

    async def plan(self, request):
        raise AssertionError("is not asked for")

    replace = availability = session_over = charged = plan


class Session:
    """A RouteSession as far as it is paid for: every hop confirms at once, or `holds` it back."""

    def __init__(self, plan):
        self.plan = plan
        self.lost = frozenset()
        self.holds = False
        self.told = []
        self.under_way = None

    @property
    def funded_rows(self):
        return self.plan.funded_rows

    async def tell_extension(self, plan):
        self.told.append(plan.funded_rows)
        self.under_way = asyncio.get_running_loop().create_future()
        if not self.holds:
            self.plan = plan
            self.under_way.set_result(True)
        return self.under_way

    def repair(self):
        """Go to the next epoch: what hops have not confirmed is void."""
        self.plan = replace(self.plan, epoch=self.plan.epoch + 1)
        self.lost = frozenset()
        if self.under_way is not None and not self.under_way.done():
            self.under_way.set_result(False)


class Answer:
    """Instalments over one session, whose lost hops are mended when it is asked to."""

    def __init__(self, market, request=None, outage_max_s=0):
        self.session = Session(first_plan())
        self.mended = 0
        self.instalments = Instalments(
            market, request or request_of(), lambda: self.session, asyncio.Lock(), self.mend,
            outage_max_s=outage_max_s,
        )  # fmt: skip

    async def mend(self):
        if self.session.lost:
            self.mended += 1
            self.session.repair()

    async def wait_for(self, rows):
        async with asyncio.timeout(5):
            await self.instalments.wait_for(rows)


async def test_rows_that_are_paid_for_wait_for_nobody():
    market = Market()
    await Answer(market).wait_for(PROMPT + FIRST)
    assert market.asked == []


async def test_the_next_instalment_is_asked_for_when_half_is_left():
    market = Market()
    answer = Answer(market)
    answer.instalments.look_ahead(PROMPT + FIRST // 2 - 1)
    await asyncio.sleep(0)
    assert market.asked == []
    answer.instalments.look_ahead(PROMPT + FIRST // 2)
    await answer.wait_for(PROMPT + FIRST + 1)
    assert market.asked == [2 * FIRST]
    assert answer.instalments.funding == (PROMPT + 2 * FIRST, 16)


async def test_the_last_instalment_is_as_long_as_the_answer_may_be():
    market = Market()
    answer = Answer(market, request_of(max_tokens=20))
    await answer.wait_for(PROMPT + 20)
    assert market.asked == [20]
    answer.instalments.look_ahead(PROMPT + 20)
    await asyncio.sleep(0)
    assert market.asked == [20]


async def test_smaller_ones_are_tried_to_the_last_token_that_is_paid_for():
    answer = Answer(Market(balance=FIRST + 7))
    for row in range(1, 8):
        await answer.wait_for(PROMPT + FIRST + row)
    with pytest.raises(AnswerUnfunded, match="no money"):
        await answer.wait_for(PROMPT + FIRST + 8)
    assert answer.session.funded_rows == PROMPT + FIRST + 7


async def test_a_refusal_from_ahead_is_no_last_word():
    market = Market(balance=FIRST)
    answer = Answer(market)
    answer.instalments.look_ahead(PROMPT + FIRST)
    for _ in range(50):
        await asyncio.sleep(0)
    asked = len(market.asked)
    answer.instalments.look_ahead(PROMPT + FIRST)
    await asyncio.sleep(0)
    assert len(market.asked) == asked, "what is not there is not asked for at every row"
    market.balance = 100
    await answer.wait_for(PROMPT + FIRST + 1)
    assert answer.session.funded_rows == PROMPT + 2 * FIRST


async def test_a_repair_while_the_marketplace_is_asked():
    answer = Answer(market := Market())
    market.before.append(answer.session.repair)
    await answer.wait_for(PROMPT + FIRST + 1)
    assert market.asked == [2 * FIRST] * 2
    assert answer.session.told == [PROMPT + 2 * FIRST], "leases of the route before are not told"
    assert answer.session.plan.epoch == 1


async def test_a_repair_that_the_marketplace_has_seen_first():
    answer = Answer(market := Market())

    def conflict():
        answer.session.repair()
        raise CONFLICT

    market.before.append(conflict)
    await answer.wait_for(PROMPT + FIRST + 1)
    assert answer.session.told == [PROMPT + 2 * FIRST]


async def test_a_repair_before_every_hop_has_confirmed():
    answer = Answer(Market())
    answer.session.holds = True
    waiting = asyncio.create_task(answer.wait_for(PROMPT + FIRST + 1))
    while not answer.session.told:
        await asyncio.sleep(0)
    assert not waiting.done()
    answer.session.holds = False
    answer.session.repair()
    await waiting
    assert answer.session.told == [PROMPT + 2 * FIRST] * 2
    assert answer.session.funded_rows == PROMPT + 2 * FIRST


async def test_a_hop_that_is_lost_is_replaced_by_who_waits_for_rows():
    answer = Answer(Market())
    answer.session.lost = frozenset({0})
    await answer.wait_for(PROMPT + FIRST + 1)
    assert answer.mended == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CONFLICT, "conflict"),
        (MarketUnreachable("no answer"), "marketplace_unreachable"),
        (AWAY, "database_unavailable"),
        (PaymentRequired(402, "key_limit", "no more"), "key_limit"),
        (PaymentRequired(402, "funds_in_flight", "held"), "funds_in_flight"),
        (SessionError("no hop"), "payment_unconfirmed"),
    ],
    ids=["409", "gone", "away", "key", "held", "hops"],
)
async def test_what_else_goes_wrong_ends_the_answer_cleanly(error, reason):
    answer = Answer(market := Market())

    def fail():
        raise error

    market.before += [fail] * 9
    with pytest.raises(AnswerUnfunded) as caught:
        await answer.wait_for(PROMPT + FIRST + 1)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "error",
    [MarketUnreachable("no answer"), AWAY, MarketRefused(429, "too_many_at_once", "wait")],
    ids=["gone", "away", "busy"],
)
@pytest.mark.parametrize("ahead", [True, False])
async def test_an_outage_of_the_marketplace_is_waited_for(error, ahead):
    answer = Answer(market := Market(), outage_max_s=60)
    if ahead:
        answer.instalments.look_ahead(PROMPT + FIRST)

    def fail():
        raise error

    market.before += [fail] * 2
    await answer.wait_for(PROMPT + FIRST + 1)
    assert market.asked == [2 * FIRST] * 3
    assert answer.session.told == [PROMPT + 2 * FIRST]


async def test_a_repair_during_an_outage():
    answer = Answer(market := Market(), outage_max_s=60)

    def fail():
        answer.session.repair()
        raise AWAY

    def conflict():
        raise CONFLICT

    market.before += [fail, conflict]
    await answer.wait_for(PROMPT + FIRST + 1)
    assert market.asked == [2 * FIRST] * 3
    assert answer.session.told == [PROMPT + 2 * FIRST]


async def test_who_leaves_leaves_nothing_behind():
    answer = Answer(Market())
    answer.session.holds = True
    answer.instalments.look_ahead(PROMPT + FIRST)
    while not answer.session.told:
        await asyncio.sleep(0)
    await answer.instalments.close()
    assert len(asyncio.all_tasks()) == 1
