"""A whole paid pool in its own processes, started once by the commands a person would type."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from node.cli.demo.pool import DemoOptions, DemoPool, start_pool
from node.cli.demo.processes import Children


@dataclass
class LivePool:
    """A running pool and its processes."""

    pool: DemoPool
    children: Children
    directory: Path

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return (self.directory / f"{name}.log").read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory):
    """Three providers in fp32, so that answers can be compared token by token."""
    directory = Path(tmp_path_factory.mktemp("pool"))
    children = Children(directory, lambda line: sys.stderr.write(f"{line}\n"))
    options = DemoOptions(nodes=3, model="piecework/tiny", prompt="", engines="auto", exact=True)
    try:
        yield LivePool(
            await start_pool(options, directory, children, lambda _: None), children, directory
        )
    finally:
        codes = await children.stop()
    assert set(codes.values()) <= {0, -9}, codes
