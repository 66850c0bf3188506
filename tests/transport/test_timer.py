import asyncio
from time import monotonic

from transport.timer import LazyTimer


class TestLazyTimer:
    async def test_fires_at_the_earliest_time_that_was_set(self):
        fired: list[float] = []
        timer = LazyTimer(lambda: fired.append(monotonic()))
        began = monotonic()
        timer.set(began + 5)
        timer.set(began + 0.02)
        timer.set(began + 1)
        await asyncio.sleep(0.08)
        assert len(fired) == 1
        assert fired[0] - began >= 0.015

    async def test_can_be_set_again_from_its_callback(self):
        count = 0

        def fire() -> None:
            nonlocal count
            count += 1
            if count < 3:
                timer.set(monotonic())

        timer = LazyTimer(fire)
        timer.set(monotonic() - 1)
        await asyncio.sleep(0.02)
        assert count == 3

    async def test_cancelled_timer_is_silent(self):
        fired: list[bool] = []
        timer = LazyTimer(lambda: fired.append(True))
        timer.set(monotonic() + 0.01)
        timer.cancel()
        timer.cancel()
        await asyncio.sleep(0.03)
        assert not fired
