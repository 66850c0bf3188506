import asyncio

from transport.handlers import Handlers


class TestCancel:
    async def test_all_tasks_end(self):
        handlers = Handlers()
        tasks = [handlers.spawn(asyncio.sleep(60)) for _ in range(3)]
        await asyncio.sleep(0)
        await handlers.cancel()
        assert all(task.cancelled() for task in tasks)
        assert handlers.task_count == 0
        await handlers.cancel()

    async def test_a_task_that_will_not_end_is_not_waited_for_for_ever(self, caplog):
        handlers = Handlers(cancel_timeout_s=0.05)
        may_end = asyncio.Event()

        async def stubborn() -> None:
            while not may_end.is_set():
                try:
                    await may_end.wait()
                except asyncio.CancelledError:
                    continue

        task = handlers.spawn(stubborn())
        await asyncio.sleep(0)
        try:
            await handlers.cancel()
            assert "1 tasks did not end" in caplog.text
        finally:
            may_end.set()
            await task
