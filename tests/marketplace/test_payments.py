"""Top-ups through the built-in test processor."""

import asyncio
import dataclasses
import secrets

import pytest

from ledger.accounts import AccountCode
from ledger.book import Book
from marketplace.errors import Conflict, TopupUnknown
from marketplace.payments.records import PaymentEvent
from marketplace.payments.service import apply_event
from tests.marketplace.world import DOLLAR, error_of


async def test_a_top_up_is_credited_when_it_is_paid(world):
    buyer = await world.buyer()
    topup_id = secrets.token_hex(16)
    body = {"amount_nanos": 5 * DOLLAR, "topup_id": topup_id}
    opened = await world.http.post("/v1/topups", json=body, headers=buyer.headers)
    assert opened.json()["status"] == "open"
    assert (await world.balance(buyer))["available_nanos"] == 0
    again = await world.http.post("/v1/topups", json=body, headers=buyer.headers)
    assert again.json() == opened.json()

    for _ in range(2):
        paid = await world.http.post(opened.json()["checkout_url"])
        assert paid.json() == {"status": "paid"}
    assert (await world.balance(buyer))["available_nanos"] == 5 * DOLLAR
    shown = await world.http.get(f"/v1/topups/{topup_id}", headers=buyer.headers)
    assert shown.json() == opened.json() | {"status": "paid"}
    with world.market.database.reading() as session:
        totals = Book(session).totals()
    assert totals[AccountCode.PROCESSOR_PENDING].debits_posted == 5 * DOLLAR


async def test_many_completions_at_once_credit_once(world):
    buyer = await world.buyer()
    body = {"amount_nanos": DOLLAR, "topup_id": secrets.token_hex(16)}
    opened = await world.http.post("/v1/topups", json=body, headers=buyer.headers)
    url = opened.json()["checkout_url"]
    answers = await asyncio.gather(*(world.http.post(url) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert (await world.balance(buyer))["posted_nanos"] == DOLLAR


async def test_an_id_cannot_mean_two_top_ups(world):
    buyer, other = await world.buyer(), await world.buyer()
    topup_id = await world.top_up(buyer, DOLLAR)
    for who, amount in ((buyer, 2 * DOLLAR), (other, DOLLAR)):
        answer = await world.http.post(
            "/v1/topups", json={"amount_nanos": amount, "topup_id": topup_id}, headers=who.headers
        )
        assert error_of(answer) == (409, "conflict")
    shown = await world.http.get(f"/v1/topups/{topup_id}", headers=other.headers)
    assert error_of(shown) == (404, "topup_unknown")


@pytest.mark.parametrize("amount", [0, -1, 9_999_999, 10_001 * DOLLAR, 1.5, "10000000", True])
async def test_amounts_have_limits(world, amount):
    buyer = await world.buyer()
    body = {"amount_nanos": amount, "topup_id": secrets.token_hex(16)}
    answer = await world.http.post("/v1/topups", json=body, headers=buyer.headers)
    assert error_of(answer) == (400, "malformed")


@pytest.mark.parametrize("topup_id", ["", "00", "Z" * 32, "A" * 32, 7])
async def test_ids_are_hex(world, topup_id):
    buyer = await world.buyer()
    body = {"amount_nanos": DOLLAR, "topup_id": topup_id}
    answer = await world.http.post("/v1/topups", json=body, headers=buyer.headers)
    assert error_of(answer) == (400, "malformed")


async def test_completing_nothing_is_404(world):
    path = f"/v1/test-processor/checkouts/{'0' * 32}/complete"
    assert error_of(await world.http.post(path)) == (404, "topup_unknown")


async def test_events_are_believed_only_for_the_right_amount_and_once(world):
    buyer = await world.buyer()
    topup_id = secrets.token_bytes(16)
    body = {"amount_nanos": DOLLAR, "topup_id": topup_id.hex()}
    await world.http.post("/v1/topups", json=body, headers=buyer.headers)
    event = PaymentEvent("evt_1", topup_id, DOLLAR)

    def apply(event):
        with world.market.database.transaction() as session:
            apply_event(session, event, now_s=world.clock.now)

    with pytest.raises(Conflict):
        apply(dataclasses.replace(event, amount_nanos=DOLLAR + 1))
    with pytest.raises(TopupUnknown):
        apply(dataclasses.replace(event, topup_id=bytes(16)))
    apply(event)
    apply(event)
    apply(dataclasses.replace(event, event_id="evt_2"))
    assert (await world.balance(buyer))["posted_nanos"] == DOLLAR
