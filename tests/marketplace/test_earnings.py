"""A provider sees what each machine earned, and where that money is."""

from marketplace.machines import service as machines
from tests.marketplace.world import error_of, manifest, three_providers


async def earned(world, outputs=(5, 7)):
    """Three machines of one account, and so many settled sessions through them."""
    owner = await world.buyer()
    buyer = await world.buyer(dollars=1)
    model, providers = manifest(), three_providers()
    for index, provider in enumerate(providers[:2]):
        world.pass_time(1)
        with world.market.database.transaction() as session:
            machines.bind(
                session,
                provider.peer,
                owner.account_id,
                f"box {index}",
                bound_by="key:test",
                now_s=world.clock.now,
            )
    await world.register(model)
    for output in outputs:
        await world.publish(model, *providers)
        paid = await world.lease(buyer, (await world.quote(buyer)).json())
        for lease, provider in zip(paid.leases, providers, strict=True):
            await world.hand_in(provider, paid.receipt(lease, provider, output=output))
        await world.close(buyer, paid)
    return owner, providers


async def get(world, owner, path):
    answer = await world.http.get(path, headers=owner.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_unsettled_becomes_earned(world):
    owner, providers = await earned(world)
    before = await get(world, owner, "/v1/earnings")
    assert before["earned_nanos"] == 0
    assert before["unsettled_nanos"] > 0
    world.worker.do("settle")
    after = await get(world, owner, "/v1/earnings")
    assert after["earned_nanos"] == before["unsettled_nanos"] == after["waiting_nanos"]
    assert after["unsettled_nanos"] == 0
    assert [machine["name"] for machine in after["machines"]] == ["box 0", "box 1"]
    for machine, provider in zip(after["machines"], providers, strict=False):
        statement = (await world.node(provider.key, "GET", "/v1/provider")).json()
        assert machine["earned_nanos"] == statement["earned_nanos"]


async def test_a_bound_machine_sees_its_account_and_a_stranger_does_not(world):
    owner, providers = await earned(world)
    mine = await get(world, owner, "/v1/earnings")
    seen = await world.node(providers[0].key, "GET", "/v1/earnings")
    assert seen.json() == mine
    stranger = await world.node(providers[2].key, "GET", "/v1/earnings")
    assert error_of(stranger) == (403, "machine_unbound")


async def test_machines_models_and_days_have_the_same_total(world):
    owner, providers = await earned(world)
    world.worker.do("settle")
    lists = [
        await get(world, owner, f"/v1/earnings/breakdown?by={by}")
        for by in ("machine", "model", "day")
    ]
    assert [len(listed["data"]) for listed in lists] == [2, 1, 1]
    assert lists[0]["total"] == lists[1]["total"] == lists[2]["total"]
    total = lists[0]["total"]
    assert total["settled_nanos"] == (await get(world, owner, "/v1/earnings"))["earned_nanos"]
    assert total["token_layers"] == sum((10 + output) * 8 for output in (5, 7))
    assert total["sessions"] == 4
    assert {row["group"] for row in lists[0]["data"]} == {p.peer for p in providers[:2]}


async def test_nothing_released_is_an_empty_list(world):
    owner, _ = await earned(world)
    assert await get(world, owner, "/v1/earnings/releases") == {"data": [], "next": None}
