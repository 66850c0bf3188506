"""The inbox: only what is signed, each event once, tried again and given up in the end."""

import json

import pytest
from sqlalchemy import text

from marketplace.payments import handlers
from marketplace.payments.inbox.service import ATTEMPTS_MAX
from tests.fakestripe import Fault
from tests.fakestripe.webhooks import RETRY_AFTER_S, sign
from tests.marketplace.world import DOLLAR, error_of

pytestmark = pytest.mark.both_engines
PATH = "/v1/webhooks/stripe"


def event(kind="checkout.session.completed", object_id="cs_1", event_id="evt_1", **more):
    about = {"id": object_id, "object": "thing"}
    return json.dumps({"id": event_id, "type": kind, "data": {"object": about}, **more}).encode()


def rows(shop, columns="event_id, state"):
    with shop.world.market.database.reading() as session:
        found = session.execute(text(f"SELECT {columns} FROM market_webhook ORDER BY event_id"))
        return [tuple(row) for row in found]


async def post(shop, body, *, secret=None, at_s=None, header=None):
    now_s = shop.world.clock.now if at_s is None else at_s
    signed = sign(body, shop.stripe.webhook_secret if secret is None else secret, now_s)
    headers = {"stripe-signature": signed if header is None else header}
    return await shop.world.http.post(PATH, content=body, headers=headers)


async def test_a_signed_event_is_kept_once(shop):
    for _ in range(3):
        answer = await post(shop, event())
        assert (answer.status_code, answer.json()) == (200, {"received": True})
    assert rows(shop) == [("evt_1", "new")]


@pytest.mark.parametrize("header", ["", "t=1", "v1=00", "t=x,v1=00", "t=1800000000,v1=zz", "ü"])
async def test_what_is_not_signed_is_refused(shop, header):
    answer = await post(shop, event(), header=header.encode())
    assert error_of(answer) == (400, "event_unverified")
    assert rows(shop) == []


async def test_a_wrong_secret_an_old_signature_and_a_changed_body_are_refused(shop):
    now_s = shop.world.clock.now
    for answer in (
        await post(shop, event(), secret="whsec_other"),
        await post(shop, event(), at_s=now_s - 301),
        await post(shop, event(), at_s=now_s + 301),
        await post(shop, event(), header=sign(event(event_id="evt_2"), "whsec_fake", now_s)),
    ):
        assert error_of(answer) == (400, "event_unverified")
    assert rows(shop) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff\xfe", b'{"id":"evt_1","type":"x"}'])
async def test_a_signed_body_that_is_no_event_is_refused(shop, body):
    assert error_of(await post(shop, body)) == (400, "event_unverified")


async def test_names_have_a_length(shop):
    assert error_of(await post(shop, event(event_id="e" * 256))) == (400, "event_unverified")


async def test_what_nobody_handles_is_done_with(shop):
    await post(shop, event("customer.updated"))
    assert await shop.work("webhooks") == 1
    assert rows(shop) == [("evt_1", "done")]


async def test_an_event_that_fails_is_tried_again_and_then_given_up(shop):
    await post(shop, event())
    for tried in range(ATTEMPTS_MAX):
        assert rows(shop, "attempts, state") == [(tried, "new")]
        assert await shop.work("webhooks") == 0
        shop.pass_time(6 * 3600)
    assert rows(shop) == [("evt_1", "dead")]
    assert "resource_missing" not in rows(shop, "error")[0][0]
    assert "ProcessorRefused" in rows(shop, "error")[0][0]
    assert await shop.work("webhooks") == 0


async def test_stripe_away_for_a_while_loses_no_event(shop):
    buyer = await shop.world.buyer()
    opened = await shop.open(buyer, 5 * DOLLAR)
    shop.stripe.pay_checkout(shop.session_of(opened)["id"])
    # a read is tried twice by the client itself
    shop.stripe.faults.next(*[Fault.ERROR_BEFORE] * 4, method="GET")
    await shop.hear()
    shop.pass_time(60)
    await shop.work("webhooks")
    assert await shop.cash(buyer) == 5 * DOLLAR


async def test_we_away_for_two_days_are_told_later(shop):
    buyer = await shop.world.buyer()
    opened = await shop.open(buyer, 5 * DOLLAR)
    shop.stripe.pay_checkout(shop.session_of(opened)["id"])
    for wait_s in RETRY_AFTER_S[:7]:
        assert shop.stripe.webhooks.deliver(lambda *_: 503) == 0
        shop.pass_time(wait_s)
    await shop.hear()
    assert await shop.cash(buyer) == 5 * DOLLAR
    assert shop.stripe.webhooks.given_up == []


async def test_another_room_hears_what_it_registered_for(shop):
    heard = []

    def handler(session, kind, object_id, payload, *, now_s):
        heard.append((kind, object_id, payload["account"], payload["created"], now_s))

    handlers.register("thing.happened", handler)
    body = event("thing.happened", "th_1", account="acct_1", created=77)
    await post(shop, body)
    assert await shop.work("webhooks") == 1
    assert heard == [("thing.happened", "th_1", "acct_1", 77, shop.world.clock.now)]


async def test_the_test_processor_has_no_webhooks(world):
    assert error_of(await world.http.post(PATH, content=b"{}")) == (404, "not_found")
