"""What bounds a key: its end, its pace, its budget; and replacing it."""

import asyncio
import secrets
from dataclasses import replace

import pytest

from ledger.settle_window import mark_closed
from marketplace.keys import budgets, service
from marketplace.keys.errors import KeyBudgetSpent, KeyBusy
from marketplace.keys.periods import Reset, next_start_s, period_start_s
from marketplace.keys.service import KeyLimits
from tests.marketplace.world import error_of, manifest, three_providers
from tests.postgres import both_engines

DAY_S = 24 * 3600
INFERENCE = frozenset({"inference"})


async def make_key(world, buyer, **body) -> dict:
    answer = await world.http.post("/v1/keys", json={"name": "x", **body}, headers=buyer.headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def listed(world, buyer, key_id) -> dict:
    answer = await world.http.get("/v1/keys", headers=buyer.headers)
    return next(key for key in answer.json()["data"] if key["key_id"] == key_id)


def account_with(world, key) -> object:
    headers = {"authorization": f"Bearer {key['api_key']}"}
    return world.http.get("/v1/account", headers=headers)


def reserve(world, key_id, nanos, *, hold_id=None, opens=True) -> bytes:
    hold_id = hold_id or secrets.token_bytes(16)
    with world.market.database.transaction() as session:
        budgets.reserve(session, key_id, hold_id, nanos, now_s=world.clock.now, opens=opens)
    return hold_id


def settle(world, hold_id, nanos) -> bool:
    with world.market.database.transaction() as session:
        return budgets.settle(session, hold_id, nanos)


class TestPeriods:
    NOW_S = 1_800_000_000
    """Friday, 15 January 2027, 08:00 UTC."""

    @pytest.mark.parametrize(
        ("reset", "start_s", "next_s"),
        [
            (Reset.NEVER, 0, None),
            (Reset.DAY, NOW_S - 8 * 3600, NOW_S + 16 * 3600),
            (Reset.WEEK, NOW_S - 8 * 3600 - 4 * DAY_S, NOW_S + 16 * 3600 + 2 * DAY_S),
            (Reset.MONTH, NOW_S - 8 * 3600 - 14 * DAY_S, NOW_S + 16 * 3600 + 16 * DAY_S),
        ],
    )
    def test_begin_at_midnight_of_utc(self, reset, start_s, next_s):
        assert period_start_s(reset, self.NOW_S) == start_s
        assert next_start_s(reset, self.NOW_S) == next_s
        if next_s is not None:
            assert period_start_s(reset, next_s - 1) == start_s
            assert period_start_s(reset, next_s) == next_s


class TestEnd:
    async def test_a_key_ends_when_it_was_said(self, world):
        buyer = await world.buyer()
        key = await make_key(world, buyer, expires_at_s=world.clock.now + 100)
        assert (await account_with(world, key)).status_code == 200
        world.pass_time(100)
        assert error_of(await account_with(world, key)) == (401, "key_invalid")

    async def test_a_key_may_end_itself(self, world):
        buyer = await world.buyer()
        key = await make_key(world, buyer)
        headers = {"authorization": f"Bearer {key['api_key']}"}
        answer = await world.http.delete("/v1/keys/current", headers=headers)
        assert answer.status_code == 204
        assert error_of(await account_with(world, key)) == (401, "key_invalid")


class TestRotation:
    async def test_both_are_good_for_a_while(self, world):
        buyer = await world.buyer()
        old = await make_key(world, buyer, spend_limit_nanos=100)
        path = f"/v1/keys/{old['key_id']}/rotate"
        answer = await world.http.post(path, json={"overlap_s": 60}, headers=buyer.headers)
        new = answer.json()
        assert (new["name"], new["scopes"]) == (old["name"], old["scopes"])
        for key in (old, new):
            assert (await account_with(world, key)).status_code == 200
        reserve(world, old["key_id"], 60)
        with pytest.raises(KeyBudgetSpent):
            reserve(world, new["key_id"], 60)
        world.pass_time(60)
        assert error_of(await account_with(world, old)) == (401, "key_invalid")
        assert (await account_with(world, new)).status_code == 200
        again = await world.http.post(path, json={}, headers=buyer.headers)
        assert error_of(again) == (409, "conflict")

    async def test_anothers_key_is_unknown(self, world):
        buyer, other = await world.buyer(), await world.buyer()
        path = f"/v1/keys/{other.key_id}"
        rotated = await world.http.post(f"{path}/rotate", json={}, headers=buyer.headers)
        assert error_of(rotated) == (404, "key_unknown")
        changed = await world.http.patch(path, json={"name": "mine"}, headers=buyer.headers)
        assert error_of(changed) == (404, "key_unknown")


class TestChange:
    async def test_what_is_not_named_stays(self, world):
        buyer = await world.buyer()
        key = await make_key(world, buyer, spend_limit_nanos=100, spend_reset="day")
        path = f"/v1/keys/{key['key_id']}"
        body = {"name": "y", "parallel_max": 3}
        assert (await world.http.patch(path, json=body, headers=buyer.headers)).status_code == 204
        row = await listed(world, buyer, key["key_id"])
        assert (row["name"], row["parallel_max"]) == ("y", 3)
        assert (row["spend_limit_nanos"], row["spend_reset"]) == (100, "day")
        body = {"spend_limit_nanos": None}
        await world.http.patch(path, json=body, headers=buyer.headers)
        assert (await listed(world, buyer, key["key_id"]))["spend_limit_nanos"] is None

    @pytest.mark.parametrize(
        "body",
        [{"spend_limit_nanos": -1}, {"spend_limit_nanos": 2**63}, {"spend_reset": "hour"},
         {"parallel_max": 0}, {"requests_per_minute_max": 0}, {"expires_at_s": 0}, {"name": ""}],
    )  # fmt: skip
    async def test_nonsense_is_400(self, world, body):
        buyer = await world.buyer()
        path = f"/v1/keys/{buyer.key_id}"
        answer = await world.http.patch(path, json=body, headers=buyer.headers)
        assert error_of(answer) == (400, "malformed")
        made = await world.http.post("/v1/keys", json={"name": "x", **body}, headers=buyer.headers)
        assert error_of(made) == (400, "malformed")


class TestBudget:
    @pytest.fixture
    async def key_id(self, world):
        buyer = await world.buyer()
        with world.market.database.transaction() as session:
            limits = KeyLimits(spend_limit_nanos=100, spend_reset=Reset.DAY, parallel_max=2)
            key = service.create(
                session, buyer.account_id, "x", INFERENCE, now_s=world.clock.now, limits=limits
            )
        self.buyer = buyer
        return key.key_id

    @both_engines
    async def test_taken_and_given_back(self, world, key_id):
        hold_id = reserve(world, key_id, 80)
        with pytest.raises(KeyBudgetSpent) as refused:
            reserve(world, key_id, 21)
        assert refused.value.details["limit_source"] == "key_spend"
        assert refused.value.details["available_nanos"] == 20
        assert settle(world, hold_id, 30)
        assert not settle(world, hold_id, 30)
        row = await listed(world, self.buyer, key_id)
        assert (row["spent_nanos"], row["reserved_nanos"], row["open_sessions"]) == (30, 0, 0)
        reserve(world, key_id, 70)
        with pytest.raises(KeyBudgetSpent):
            reserve(world, key_id, 1)

    async def test_the_same_hold_again_takes_nothing_and_a_larger_one_the_difference(
        self, world, key_id
    ):
        hold_id = reserve(world, key_id, 40)
        reserve(world, key_id, 40, hold_id=hold_id)
        reserve(world, key_id, 90, hold_id=hold_id)
        assert (await listed(world, self.buyer, key_id))["reserved_nanos"] == 90
        with pytest.raises(KeyBudgetSpent):
            reserve(world, key_id, 101, hold_id=hold_id)
        settle(world, hold_id, 90)
        assert (await listed(world, self.buyer, key_id))["spent_nanos"] == 90

    async def test_as_many_open_sessions_and_no_more(self, world, key_id):
        first = reserve(world, key_id, 1)
        reserve(world, key_id, 1)
        with pytest.raises(KeyBusy):
            reserve(world, key_id, 1)
        reserve(world, key_id, 1, opens=False)
        with world.market.database.transaction() as session:
            budgets.finish(session, [first])
            budgets.finish(session, [first])
        reserve(world, key_id, 1)
        settle(world, first, 0)
        with pytest.raises(KeyBusy):
            reserve(world, key_id, 1)

    @both_engines
    async def test_anew_each_day(self, world, key_id):
        old = reserve(world, key_id, 100)
        world.pass_time(DAY_S)
        new = reserve(world, key_id, 100)
        settle(world, old, 60)
        row = await listed(world, self.buyer, key_id)
        assert (row["spent_nanos"], row["reserved_nanos"]) == (0, 100)
        settle(world, new, 10)
        row = await listed(world, self.buyer, key_id)
        assert (row["spent_nanos"], row["reserved_nanos"]) == (10, 0)
        world.pass_time(DAY_S)
        assert (await listed(world, self.buyer, key_id))["spent_nanos"] == 0

    async def test_a_hold_that_grows_over_midnight_counts_in_the_new_day(self, world, key_id):
        hold_id = reserve(world, key_id, 60)
        world.pass_time(DAY_S)
        reserve(world, key_id, 90, hold_id=hold_id)
        assert (await listed(world, self.buyer, key_id))["reserved_nanos"] == 90
        with pytest.raises(KeyBudgetSpent):
            reserve(world, key_id, 11)
        settle(world, hold_id, 90)
        assert (await listed(world, self.buyer, key_id))["reserved_nanos"] == 0

    async def test_a_lower_limit_takes_nothing_back(self, world, key_id):
        hold_id = reserve(world, key_id, 80)
        body = {"spend_limit_nanos": 50}
        path = f"/v1/keys/{key_id}"
        await world.http.patch(path, json=body, headers=self.buyer.headers)
        with pytest.raises(KeyBudgetSpent) as refused:
            reserve(world, key_id, 1)
        assert refused.value.details["available_nanos"] == 0
        settle(world, hold_id, 20)
        reserve(world, key_id, 30)

    @both_engines
    async def test_exact_under_concurrency(self, world, key_id):
        path = f"/v1/keys/{key_id}"
        body = {"parallel_max": None}
        await world.http.patch(path, json=body, headers=self.buyer.headers)

        def one() -> bool:
            try:
                reserve(world, key_id, 10)
            except KeyBudgetSpent:
                return False
            return True

        served = await asyncio.gather(*(asyncio.to_thread(one) for _ in range(40)))
        assert sum(served) == 10
        assert (await listed(world, self.buyer, key_id))["reserved_nanos"] == 100

    @both_engines
    async def test_the_job_settles_what_the_ledger_has(self, world, key_id):
        from ledger.book import Book

        await world.top_up(self.buyer, 10_000_000)
        hold_id, now_s = secrets.token_bytes(16), world.clock.now
        with world.market.database.transaction() as session:
            budgets.reserve(session, key_id, hold_id, 80, now_s=now_s)
            Book(session).hold(
                hold_id, self.buyer.account_id, 80, now_s=now_s, expires_at_s=now_s + 60
            )
        assert world.worker.do("settle-budgets") == 0
        with world.market.database.transaction() as session:
            mark_closed(session, hold_id)
        world.worker.do("settle")
        assert world.worker.do("settle-budgets") == 1
        assert world.worker.do("settle-budgets") == 0
        row = await listed(world, self.buyer, key_id)
        assert (row["spent_nanos"], row["reserved_nanos"], row["open_sessions"]) == (0, 0, 0)

    async def test_a_key_without_limits_and_a_person_take_of_no_budget(self, world):
        buyer = await world.buyer()
        hold_id = reserve(world, buyer.key_id, 10**15)
        assert settle(world, hold_id, 5)
        assert not settle(world, reserve(world, None, 10**15), 5)


async def sold_to(world):
    """A buyer with a dollar, and somebody who sells."""
    await world.register(manifest())
    await world.publish(manifest(), *three_providers())
    return await world.buyer(dollars=1)


class TestPace:
    async def ask(self, world, buyer, quote):
        session = world.session_for(quote)
        return await world.http.post("/v1/leases", json=session.request, headers=buyer.headers)

    async def test_requests_a_minute(self, world):
        buyer = await sold_to(world)
        key = await make_key(world, buyer, requests_per_minute_max=2)
        paced = replace(buyer, api_key=key["api_key"])
        quotes = [(await world.quote(paced)).json() for _ in range(4)]
        answers = [await self.ask(world, paced, quote) for quote in quotes[:3]]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["error"]["details"]["limit_source"] == "key_rpm"
        assert 0 < int(answers[2].headers["retry-after"]) <= 60
        held = (await account_with(world, key)).json()["balance"]["held_nanos"]
        assert held == 2 * quotes[0]["amount_nanos_max"]  # nothing was held for the third
        assert (await self.ask(world, buyer, quotes[3])).status_code == 200  # another key's pace
        world.pass_time(60)
        quote = (await world.quote(paced)).json()
        assert (await self.ask(world, paced, quote)).status_code == 200

    async def test_what_the_balance_refuses_is_not_counted(self, world):
        buyer = await sold_to(world)
        key = await make_key(world, buyer, requests_per_minute_max=1, spend_limit_nanos=1)
        paced = replace(buyer, api_key=key["api_key"])
        quote = (await world.quote(paced)).json()
        for _ in range(2):  # the same quote: what is given up claims none
            assert (await self.ask(world, paced, quote)).json()["error"]["code"] == "key_limit"
        await world.http.patch(
            f"/v1/keys/{key['key_id']}", json={"spend_limit_nanos": 10**12}, headers=buyer.headers
        )
        assert (await self.ask(world, paced, quote)).status_code == 200
