"""Lines for money in flight: first come first served, bounded, and never stuck."""

import asyncio

import pytest

from node.errors import PaymentRequired
from node.router import funds
from node.router.funds import FUNDS_IN_FLIGHT, FundsQueue


class Till:
    """A balance that holds one unit a buyer, and gives some back."""

    def __init__(self, units) -> None:
        self.units = units
        self.in_flight = True
        self.served: list[str] = []

    async def buy(self, name):
        await asyncio.sleep(0)
        if self.units == 0:
            code = FUNDS_IN_FLIGHT if self.in_flight else "insufficient_funds"
            raise PaymentRequired(402, code, "no money")
        self.units -= 1
        self.served.append(name)
        return name


async def wait_for_line(queue, count):
    async with asyncio.timeout(2):
        while queue.waiting < count:
            await asyncio.sleep(0)


async def begin(queue, till, names, **options):
    tasks = []
    for name in names:
        before = queue.waiting
        attempt = lambda name=name: till.buy(name)  # noqa: E731
        tasks.append(asyncio.create_task(queue.buy("key", attempt, **options)))
        await wait_for_line(queue, before + 1)
    return tasks


async def test_who_can_pay_does_not_wait():
    till = Till(1)
    assert await FundsQueue().buy("key", lambda: till.buy("a")) == "a"


async def test_they_are_served_in_the_order_in_which_they_came():
    queue, till = FundsQueue(), Till(0)
    tasks = await begin(queue, till, "abc")
    urgent = await begin(queue, till, "xy", urgent=True)
    for _ in range(5):
        till.units += 1
        queue.freed("key")
        await asyncio.sleep(0.01)
    await asyncio.wait_for(asyncio.gather(*tasks, *urgent), 5)
    # the first was at its turn already; answers that run go before the others
    assert sorted(till.served) == list("abcxy")
    assert till.served.index("x") < till.served.index("y") < till.served.index("b")
    assert till.served.index("b") < till.served.index("c")
    assert queue.waiting == 0


async def test_an_answer_that_runs_is_paid_beside_the_line():
    queue, till = FundsQueue(), Till(0)
    tasks = await begin(queue, till, "ab")
    rich = Till(2)  # what is kept back for answers that run is there, whoever else waits
    paid = [queue.buy("key", lambda name=name: rich.buy(name), urgent=True) for name in "xy"]
    assert await asyncio.wait_for(asyncio.gather(*paid), 0.05) == ["x", "y"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_attempt_under_way_is_not_given_up():
    queue, till = FundsQueue(), Till(0)
    held = []

    async def slow():
        if not held:
            held.append("asked")
            return await till.buy("a")
        await asyncio.sleep(0.1)
        held.append("granted")
        return "a"

    assert await queue.buy("key", slow, wait_max_s=0.01) == "a"
    assert held == ["asked", "granted"]


async def test_few_of_one_key_ask_at_once():
    queue, asking, most = FundsQueue(), 0, 0

    async def attempt():
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.001)
        asking -= 1

    await asyncio.gather(*(queue.buy("key", attempt) for _ in range(50)))
    assert most == funds.ASKING_MAX
    most = 0
    await asyncio.gather(*(queue.buy(f"key {n}", attempt) for n in range(50)))
    assert most == 50  # other buyers wait for nobody


async def test_a_refusal_is_told_to_each_in_turn():
    queue, till = FundsQueue(), Till(0)
    tasks = await begin(queue, till, "abc")
    till.in_flight = False
    queue.freed("key")
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert {error.code for error in results} == {"insufficient_funds"}
    assert queue.waiting == 0


async def test_nobody_waits_for_ever():
    till = Till(0)
    with pytest.raises(PaymentRequired) as caught:
        await FundsQueue().buy("key", lambda: till.buy("a"), wait_max_s=0.05)
    assert caught.value.code == FUNDS_IN_FLIGHT


async def test_who_leaves_holds_up_nobody():
    queue, till = FundsQueue(), Till(0)
    first, second = await begin(queue, till, "ab")
    first.cancel()
    till.units = 1
    assert await asyncio.wait_for(second, 5) == "b"


async def test_a_line_has_an_end(monkeypatch):
    monkeypatch.setattr(funds, "WAITING_MAX", 2)
    queue, till = FundsQueue(), Till(0)
    tasks = await begin(queue, till, "ab")
    with pytest.raises(PaymentRequired):
        await queue.buy("key", lambda: till.buy("c"))
    rich = Till(1)
    assert await queue.buy("key", lambda: rich.buy("runs"), urgent=True) == "runs"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
