"""One buyer's requests take turns; others do not wait for them."""

import asyncio

import pytest

from marketplace import turns
from marketplace.turns import TooManyAtOnce, Turn, Turns


async def at(gates, name, order, gone, turn=Turn.BEGIN):
    async with gates.of(name, turn):
        order.append(name)
        await gone.wait()


async def idle():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_few_of_one_buyer_at_once_and_others_beside_them():
    gates, order, gone = Turns(), [], asyncio.Event()
    tasks = [asyncio.create_task(at(gates, "ann", order, gone)) for _ in range(50)]
    await idle()
    assert order == ["ann"] * turns.AT_ONCE_MAX
    tasks.append(asyncio.create_task(at(gates, "bob", order, gone)))
    running = at(gates, "ann", order, gone, Turn.GO_ON)
    tasks.append(asyncio.create_task(running))
    await idle()
    assert order[turns.AT_ONCE_MAX :] == ["bob", "ann"]
    gone.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert order.count("ann") == 51


async def test_a_line_has_an_end_and_who_leaves_it_frees_a_place():
    gates, order, gone = Turns(waiting_max=2), [], asyncio.Event()
    tasks = [
        asyncio.create_task(at(gates, "ann", order, gone)) for _ in range(turns.AT_ONCE_MAX + 2)
    ]
    await idle()
    with pytest.raises(TooManyAtOnce) as caught:
        await at(gates, "ann", order, gone)
    assert caught.value.headers["Retry-After"] == "1"
    tasks[-1].cancel()
    await idle()
    tasks[-1] = asyncio.create_task(at(gates, "ann", order, gone))
    gone.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert len(order) == turns.AT_ONCE_MAX + 2


async def test_an_endpoint_that_fails_ends_its_turn():
    gates = Turns()
    for _ in range(2 * turns.AT_ONCE_MAX):
        with pytest.raises(KeyError):
            async with gates.of("ann", Turn.BEGIN):
                raise KeyError
