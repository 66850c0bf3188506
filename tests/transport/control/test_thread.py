"""The bridge between asyncio and trio: results, errors, cancelling, and an orderly end."""

import asyncio
import threading

import pytest
import trio

from transport.control.thread import TrioThread
from transport.errors import PeerGone


@pytest.fixture
async def thread():
    thread = TrioThread("control-test")
    await thread.start()
    yield thread
    await thread.close()


async def test_results_and_errors_come_back(thread):
    async def divide(a, b):
        await trio.sleep(0)
        return a / b

    assert await thread.submit(divide, 6, 3) == 2
    with pytest.raises(ZeroDivisionError):
        await thread.submit(divide, 1, 0)


async def test_a_cancelled_call_is_cancelled_over_there(thread):
    cancelled = threading.Event()

    async def wait():
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(thread.submit(wait), 0.05)
    assert await asyncio.to_thread(cancelled.wait, 5)


async def test_a_call_back_runs_in_the_owners_loop(thread):
    called = asyncio.Event()

    async def call():
        thread.call_back(called.set)

    await thread.submit(call)
    await asyncio.wait_for(called.wait(), 5)


async def test_after_the_end_every_call_fails_and_none_hangs():
    thread = TrioThread("control-test")
    await thread.start()
    waiting = thread.submit(trio.sleep_forever)
    await thread.close()
    with pytest.raises(PeerGone):
        await waiting
    with pytest.raises(PeerGone):
        await thread.submit(trio.sleep_forever)
    assert not thread.post(print)
    assert "control-test" not in {t.name for t in threading.enumerate()}


async def test_calls_that_race_with_the_end_do_not_hang():
    for _ in range(20):
        thread = TrioThread("control-test")
        await thread.start()
        closing = asyncio.ensure_future(thread.close())
        calls = []
        for _ in range(20):
            calls.append(thread.submit(trio.sleep_forever))
            await asyncio.sleep(0)
        await closing
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        assert all(isinstance(result, PeerGone) for result in results)


def test_a_loop_that_is_closed_first_ends_the_thread():
    async def main():
        thread = TrioThread("control-orphan")
        await thread.start()
        return thread

    thread = asyncio.run(main())
    thread.post(thread.call_back, print)
    thread._thread.join(5)
    assert not thread._thread.is_alive()
