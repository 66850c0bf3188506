"""The HTTP of payouts, on the built-in test processor."""

import secrets

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from tests.marketplace.world import DOLLAR, error_of

WHO = {"email": "provider@pool.example", "country": "de"}


def earn(world, account_id, nanos):
    with world.market.database.transaction() as session:
        Book(session).transfer(
            AccountRef(AccountCode.PROCESSOR_AVAILABLE),
            AccountRef(AccountCode.PROVIDER_PAYABLE, account_id),
            nanos,
            code="earned_in_test",
            ref=secrets.token_hex(8),
            now_s=world.clock.now,
        )


async def test_from_recipient_to_payout(world):
    provider = await world.buyer()
    http, headers = world.http, provider.headers
    missing = await http.get("/v1/payouts/recipient", headers=headers)
    assert error_of(missing) == (409, "recipient_missing")
    opened = await http.post("/v1/payouts/recipient", json=WHO, headers=headers)
    assert (opened.json()["payouts_enabled"], opened.json()["country"]) == (True, "DE")
    again = await http.post("/v1/payouts/recipient", json=WHO, headers=headers)
    assert again.json() == opened.json()
    shown = await http.get("/v1/payouts/recipient", headers=headers)
    assert shown.json()["recipient"] == opened.json()["recipient"]

    earn(world, provider.account_id, 12 * DOLLAR + 1)
    body = {"payout_id": secrets.token_hex(16)}
    made = await http.post("/v1/payouts", json=body, headers=headers)
    assert (made.json()["state"], made.json()["amount_cents"]) == ("reserved", 1200)
    again = await http.post("/v1/payouts", json=body, headers=headers)
    assert again.json() == made.json()
    world.worker.do("payouts_send")
    listed = (await http.get("/v1/payouts", headers=headers)).json()
    assert [payout["state"] for payout in listed["data"]] == ["submitted"]
    assert (listed["payable_nanos"], listed["in_transit_nanos"]) == (1, 0)


async def test_refusals_say_why(world):
    provider = await world.buyer()
    http, headers = world.http, provider.headers
    body = {"payout_id": secrets.token_hex(16)}
    refused = await http.post("/v1/payouts", json=body, headers=headers)
    assert error_of(refused) == (409, "recipient_missing")
    await http.post("/v1/payouts/recipient", json=WHO, headers=headers)
    earn(world, provider.account_id, 9 * DOLLAR)
    refused = await http.post("/v1/payouts", json=body, headers=headers)
    assert error_of(refused) == (409, "payout_refused")
    assert refused.json()["error"]["details"] == {
        "reason": "below_minimum",
        "payable_nanos": 9 * DOLLAR,
    }


async def test_nobody_is_paid_in_no_country(world):
    provider = await world.buyer()
    path = "/v1/payouts/recipient"

    async def ask(**body):
        return await world.http.post(path, json=body, headers=provider.headers)

    email = WHO["email"]
    assert error_of(await ask(email=email)) == (400, "malformed")
    for wrong in ("UK", "DEU", "", "Germany"):
        refused = await ask(email=email, country=wrong)
        assert error_of(refused) == (400, "country_unknown")
        assert f"'{wrong}'" in refused.json()["error"]["message"]
        assert "ISO 3166-1" in refused.json()["error"]["hint"]
    shown = await world.http.get(path, headers=provider.headers)
    assert error_of(shown) == (409, "recipient_missing")


async def test_ready_in_one_country_it_stays_there(world):
    provider = await world.buyer()
    path = "/v1/payouts/recipient"
    await world.http.post(path, json=WHO, headers=provider.headers)
    moved = await world.http.post(path, json=WHO | {"country": "JP"}, headers=provider.headers)
    assert error_of(moved) == (409, "country_fixed")
    assert moved.json()["error"]["details"] == {"country": "DE"}
    shown = await world.http.get(path, headers=provider.headers)
    assert shown.json()["country"] == "DE"


async def test_the_minimum_and_the_schedule_are_the_accounts_choice(world):
    provider = await world.buyer()
    http, headers = world.http, provider.headers
    await http.post("/v1/payouts/recipient", json=WHO, headers=headers)
    earn(world, provider.account_id, 9 * DOLLAR)
    chosen = {"schedule": "manual", "minimum_cents": 500}
    answer = await http.put("/v1/payouts/schedule", json=chosen, headers=headers)
    assert answer.json() == chosen
    assert world.worker.do("payouts_plan") == 0
    chosen["schedule"] = "weekly"
    await http.put("/v1/payouts/schedule", json=chosen, headers=headers)
    assert world.worker.do("payouts_plan") == 1
    for wrong in ({"minimum_cents": 99}, {"minimum_cents": 2.5}, {"schedule": "daily"}):
        answer = await http.put("/v1/payouts/schedule", json=chosen | wrong, headers=headers)
        assert error_of(answer) == (400, "malformed")


async def test_leaving_says_when_the_reserve_comes(world):
    provider = await world.buyer()
    first = (await world.http.post("/v1/payouts/exit", headers=provider.headers)).json()
    assert first["exit_at_s"] == world.clock.now
    world.pass_time(1000)
    again = (await world.http.post("/v1/payouts/exit", headers=provider.headers)).json()
    assert again == first


async def test_standing_is_shown(world):
    buyer = await world.buyer()
    shown = (await world.http.get("/v1/standing", headers=buyer.headers)).json()
    assert shown == {"tier": "new", "verified": False, "may_choose_providers": True, "frozen": []}


async def test_without_a_key_nothing(world):
    assert error_of(await world.http.get("/v1/payouts")) == (401, "key_invalid")
