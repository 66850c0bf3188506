"""A buyer sees what was used, by whom and for how much; the sums are the ledger's."""

import csv
import io

import pytest

from tests.marketplace.world import error_of, manifest, three_providers

DAY_S = 86_400


async def used(world, *, requests=3, outputs=(5, 7, 9)):
    """A buyer with so many settled requests; gives it with their sessions."""
    buyer = await world.buyer(dollars=1)
    model, providers = manifest(), three_providers()
    await world.register(model)
    sessions = []
    for index in range(requests):
        await world.publish(model, *providers)
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        for lease, provider in zip(paid.leases, providers, strict=True):
            receipt = paid.receipt(lease, provider, output=outputs[index])
            await world.hand_in(provider, receipt)
        await world.close(buyer, paid)
        world.worker.round()
        sessions.append(paid)
        world.pass_time(DAY_S)
    return buyer, sessions


async def get(world, buyer, path):
    answer = await world.http.get(path, headers=buyer.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_days_models_and_keys_have_the_same_total(world):
    buyer, _ = await used(world)
    totals = [await get(world, buyer, f"/v1/usage?by={by}") for by in ("day", "model", "key")]
    assert [len(listed["data"]) for listed in totals] == [3, 1, 1]
    assert totals[0]["total"] == totals[1]["total"] == totals[2]["total"]
    total = totals[0]["total"]
    assert (total["requests"], total["prompt_tokens"], total["output_tokens"]) == (3, 30, 21)
    spent = 1_000_000_000 - (await world.balance(buyer))["posted_nanos"]
    assert (total["charged_nanos"], total["held_nanos"]) == (spent, 0)
    assert totals[1]["data"][0]["group"] == "tiny"
    assert totals[2]["data"][0]["group"] == buyer.key_id


async def test_a_period_is_what_was_asked_for(world):
    buyer, _ = await used(world)
    listed = await get(world, buyer, "/v1/usage")
    day = listed["data"][1]["group"]
    one = await get(world, buyer, f"/v1/usage?start={day}&end={day}")
    assert one["total"]["requests"] == 1
    assert one["data"][0]["output_tokens"] == 7


async def test_each_request_has_its_cost(world):
    buyer, sessions = await used(world)
    listed = await get(world, buyer, "/v1/requests")
    assert [row["session_id"] for row in listed["data"]] == [
        paid.session_id.hex() for paid in reversed(sessions)
    ]
    assert listed["next"] is None
    newest = listed["data"][0]
    told = await world.session(buyer, sessions[-1])
    assert newest["charged_nanos"] == told["charged_nanos"]
    assert (newest["status"], newest["output_tokens"], newest["key_id"]) == (
        "settled",
        9,
        buyer.key_id,
    )


async def test_requests_come_in_pages_and_as_csv(world, monkeypatch):
    buyer, sessions = await used(world)
    monkeypatch.setattr("marketplace.usage.service.REQUESTS_PAGE", 2)
    monkeypatch.setattr("marketplace.usage.service.EXPORT_PAGE", 2)
    first = await get(world, buyer, "/v1/requests")
    rest = await get(world, buyer, f"/v1/requests?before={first['next']}")
    assert [len(first["data"]), len(rest["data"]), rest["next"]] == [2, 1, None]
    answer = await world.http.get("/v1/requests.csv", headers=buyer.headers)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["session_id"] for row in rows] == [p.session_id.hex() for p in reversed(sessions)]
    assert rows[0] == {key: str(value) for key, value in first["data"][0].items()}


async def test_what_is_open_is_held(world):
    buyer = await world.buyer(dollars=1)
    model, providers = manifest(), three_providers()
    await world.register(model)
    await world.publish(model, *providers)
    paid = await world.lease(buyer, (await world.quote(buyer)).json())
    (row,) = (await get(world, buyer, "/v1/requests"))["data"]
    assert (row["status"], row["charged_nanos"]) == ("open", 0)
    assert row["held_nanos"] == paid.answer["amount_nanos"]
    await world.close(buyer, paid)
    (row,) = (await get(world, buyer, "/v1/requests"))["data"]
    assert row["status"] == "closed"


async def test_a_month_is_final_when_it_is_over(world):
    buyer, _ = await used(world)
    (summary,) = (await get(world, buyer, "/v1/invoices"))["data"]
    spent = 1_000_000_000 - (await world.balance(buyer))["posted_nanos"]
    assert (summary["amount_nanos"], summary["requests"], summary["final"]) == (spent, 3, False)
    world.pass_time(40 * DAY_S)
    months = (await get(world, buyer, "/v1/invoices"))["data"]
    assert [month["final"] for month in months] == [False, True]
    invoice = await get(world, buyer, f"/v1/invoices/{summary['number']}")
    assert invoice["final"]
    assert (
        invoice["amount_nanos"] == spent == sum(line["amount_nanos"] for line in invoice["lines"])
    )


async def test_nobody_sees_anothers(world):
    await used(world, requests=1)
    other = await world.buyer()
    assert (await get(world, other, "/v1/requests"))["data"] == []
    assert (await get(world, other, "/v1/usage"))["total"]["requests"] == 0
    assert (await get(world, other, "/v1/invoices"))["data"] == []


@pytest.mark.parametrize(
    "path",
    [
        "usage?start=2026-02-30",
        "usage?start=2020-01-01&end=2026-01-01",
        "usage?start=2026-02-02&end=2026-01-01",
        "usage?by=colour",
        "requests?before=x",
        "invoices/2026-13",
        "invoices/0001-01",
    ],
)
async def test_nonsense_is_400(world, path):
    buyer = await world.buyer()
    answer = await world.http.get(f"/v1/{path}", headers=buyer.headers)
    assert error_of(answer)[0] == 400
