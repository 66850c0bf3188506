import asyncio
from time import monotonic

import pytest

from transport.virtual_clock import run_virtual


class TestRunVirtual:
    def test_a_day_passes_at_once_and_in_order(self):
        async def main() -> tuple[list[str], float]:
            order: list[str] = []

            async def after(delay_s: float, name: str) -> None:
                await asyncio.sleep(delay_s)
                order.append(name)

            loop = asyncio.get_running_loop()
            began = loop.time()
            await asyncio.gather(after(86_400, "day"), after(3600, "hour"), after(0.5, "now"))
            return order, loop.time() - began

        began = monotonic()
        order, elapsed_s = run_virtual(main())
        assert order == ["now", "hour", "day"]
        assert elapsed_s == pytest.approx(86_400, abs=0.01)
        assert monotonic() - began < 2

    def test_timeouts_are_virtual_too(self):
        async def main() -> None:
            async with asyncio.timeout(1000):
                await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            run_virtual(main())

    def test_other_threads_are_waited_for(self):
        async def main() -> int:
            return await asyncio.to_thread(sum, range(100_000))

        assert run_virtual(main()) == sum(range(100_000))
