"""An event loop whose clock jumps: what waits ten seconds in it takes none, and always the same."""

import asyncio
import selectors


class _Selector(selectors.DefaultSelector):
    def __init__(self):
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("Everybody waits for ever.")
        self.now_s += max(timeout, 0.0)
        return super().select(0)


def virtual_loop():
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now_s
    return loop


def run_virtual(main):
    """The result of `main()`, and the virtual seconds it took; no task may be left behind."""

    async def run():
        loop = asyncio.get_running_loop()
        result = await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result, loop.time()

    with asyncio.Runner(loop_factory=virtual_loop) as runner:
        return runner.run(run())


def clock():
    return asyncio.get_running_loop().time()
