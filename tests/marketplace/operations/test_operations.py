"""Two operators together may freeze, lift, verify and give; one alone only looks."""

import secrets

import pytest

from ledger.invariants import check
from marketplace.standing import service as standing
from marketplace.users.operators import invite_operator
from tests.marketplace.users.people import Somebody
from tests.marketplace.world import error_of, manifest, three_providers


async def operator(world, email) -> Somebody:
    """Somebody who runs the marketplace, signed in with a code."""
    person = Somebody(world, email)
    token = invite_operator(world.market, email)
    assert (await person.sign_up(token=token)).status_code == 202
    assert (await person.sign_in()).status_code == 201
    await person.enrol()
    return person


@pytest.fixture
async def two(world):
    return await operator(world, "ann@example.com"), await operator(world, "bob@example.com")


def wish(action, subject, **parameters) -> dict:
    return {
        "approval_id": secrets.token_hex(16),
        "action": action,
        "subject": subject,
        "parameters": parameters,
        "reason": "the bank called",
    }


async def asked(person, body) -> dict:
    answer = await person.ask("POST", "/v1/operations/approvals", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def decided(person, body, verb="approve"):
    path = f"/v1/operations/approvals/{body['approval_id']}/{verb}"
    return await person.ask("POST", path, {})


class TestTwoPeople:
    async def test_one_asks_and_another_does(self, world, two):
        ann, bob = two
        buyer = await world.buyer(dollars=1)
        body = wish("freeze_account", buyer.account_id)
        assert (await asked(ann, body))["outcome"] is None
        done = (await decided(bob, body)).json()
        assert (done["outcome"], done["decided_by"] != done["asked_by"]) == ("done", True)
        with world.market.database.reading() as session:
            assert standing.is_frozen(session, buyer.account_id)
        lift = wish("unfreeze_account", buyer.account_id)
        await asked(bob, lift)
        assert (await decided(ann, lift)).status_code == 200
        with world.market.database.reading() as session:
            assert not standing.is_frozen(session, buyer.account_id)

    async def test_nobody_approves_their_own_wish(self, world, two):
        ann, _ = two
        buyer = await world.buyer(dollars=1)
        body = wish("freeze_account", buyer.account_id)
        await asked(ann, body)
        assert error_of(await decided(ann, body)) == (403, "two_people_needed")
        with world.market.database.reading() as session:
            assert not standing.is_frozen(session, buyer.account_id)

    async def test_goodwill_is_given_once_however_often_it_is_approved(self, world, two):
        ann, bob = two
        buyer = await world.buyer(dollars=1)
        body = wish("goodwill", buyer.account_id, amount_nanos=5_000_000)
        await asked(ann, body)
        for _ in range(3):
            assert (await decided(bob, body)).status_code == 200
        assert (await world.balance(buyer))["posted_nanos"] == 1_005_000_000
        with world.market.database.reading() as session:
            assert check(session) == []

    async def test_a_refund_leaves_the_balance_once(self, world, two):
        ann, bob = two
        buyer = await world.buyer()
        topup_id = await world.top_up(buyer, 1_000_000_000)
        body = wish("refund", buyer.account_id, topup_id=topup_id, amount_nanos=250_000_000)
        await asked(ann, body)
        for _ in range(2):
            done = await decided(bob, body)
            assert done.status_code == 200, done.text
        assert (await world.balance(buyer))["available_nanos"] == 750_000_000

    @pytest.mark.parametrize("action", ["cancel_payout", "resume_payout"])
    async def test_a_payout_that_is_not_there_is_refused(self, two, action):
        ann, bob = two
        body = wish(action, "0" * 32)
        await asked(ann, body)
        assert error_of(await decided(bob, body)) == (409, "conflict")

    async def test_a_dispute_that_is_not_there_is_refused(self, two):
        ann, bob = two
        part = {"lease_id": "1" * 32, "to_provider_nanos": 1, "to_buyer_nanos": 0}
        body = wish("rule_dispute", "0" * 32, decisions=[part])
        await asked(ann, body)
        assert (await decided(bob, body)).status_code in (404, 409)

    async def test_what_was_refused_or_withdrawn_is_over(self, world, two):
        ann, bob = two
        buyer = await world.buyer(dollars=1)
        for person, outcome in ((bob, "refused"), (ann, "withdrawn")):
            body = wish("goodwill", buyer.account_id, amount_nanos=1)
            await asked(ann, body)
            assert (await decided(person, body, "refuse")).json()["outcome"] == outcome
            assert error_of(await decided(bob, body)) == (409, "approval_over")
        assert (await world.balance(buyer))["posted_nanos"] == 1_000_000_000

    async def test_the_same_wish_again_is_the_same_and_another_is_refused(self, world, two):
        ann, _ = two
        buyer = await world.buyer(dollars=1)
        body = wish("goodwill", buyer.account_id, amount_nanos=1)
        assert await asked(ann, body) == await asked(ann, body)
        changed = {**body, "parameters": {"amount_nanos": 2}}
        answer = await ann.ask("POST", "/v1/operations/approvals", changed)
        assert error_of(answer) == (409, "conflict")

    @pytest.mark.parametrize(
        ("action", "parameters"),
        [
            ("melt_account", {}),
            ("goodwill", {}),
            ("goodwill", {"amount_nanos": 0}),
            ("goodwill", {"amount_nanos": 10**15}),
            ("goodwill", {"amount_nanos": "1"}),
            ("freeze_account", {"colour": "blue"}),
        ],
    )
    async def test_nonsense_is_refused_when_it_is_asked_for(self, world, two, action, parameters):
        buyer = await world.buyer()
        body = wish(action, buyer.account_id, **parameters)
        answer = await two[0].ask("POST", "/v1/operations/approvals", body)
        assert error_of(answer) == (400, "malformed")

    async def test_an_unknown_account_is_refused(self, two):
        body = wish("freeze_account", "f" * 32)
        answer = await two[0].ask("POST", "/v1/operations/approvals", body)
        assert error_of(answer) == (400, "malformed")

    async def test_the_list_shows_what_waits(self, world, two):
        ann, bob = two
        buyer = await world.buyer(dollars=1)
        first, second = (wish("goodwill", buyer.account_id, amount_nanos=n) for n in (1, 2))
        await asked(ann, first)
        await asked(ann, second)
        await decided(bob, first)
        waiting = (await bob.ask("GET", "/v1/operations/approvals")).json()["data"]
        assert [row["approval_id"] for row in waiting] == [second["approval_id"]]
        every = (await bob.ask("GET", "/v1/operations/approvals?open_only=false")).json()["data"]
        assert len(every) == 2


class TestLooking:
    async def test_sums_are_zero_and_holds_have_an_age(self, world, two):
        ann, _ = two
        buyer = await world.buyer(dollars=1)
        model, providers = manifest(), three_providers()
        await world.register(model)
        await world.publish(model, *providers)
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        world.pass_time(120)
        sums = (await ann.ask("GET", "/v1/operations/sums")).json()
        assert sums["sum_nanos"] == 0
        assert sums["liabilities_nanos"] == 1_000_000_000
        (holds, payouts, disputed) = (await ann.ask("GET", "/v1/operations/clearing")).json()[
            "data"
        ]
        assert (holds["items"], holds["nanos"]) == (1, paid.answer["amount_nanos"])
        assert holds["oldest_s"] >= 120
        assert not holds["late"]
        assert [bucket["items"] for bucket in holds["buckets"]] == [1, 0, 0, 0]
        assert (payouts["items"], disputed["items"]) == (0, 0)
        world.pass_time(100_000)
        again = await ann.ask("GET", "/v1/operations/clearing")
        assert error_of(again) == (403, "code_needed")
        await ann.ask("POST", "/v1/logins/current/code", {"code": ann.code()})
        (holds, *_) = (await ann.ask("GET", "/v1/operations/clearing")).json()["data"]
        assert (holds["late"], [b["items"] for b in holds["buckets"]]) == (True, [0, 0, 1, 0])

    async def test_the_books_are_in_order(self, world, two):
        books = (await two[0].ask("GET", "/v1/operations/books")).json()
        assert books == {"ok": True, "violations": []}

    async def test_buyers_do_not_look(self, world):
        buyer = await world.buyer()
        answer = await world.http.get("/v1/operations/sums", headers=buyer.headers)
        assert answer.status_code in (401, 403)
