"""Nodes and a relay for tests of signalling."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.transport.home_relay import HomeRelay
from tests.transport.reach_pair import Node
from transport.control.testing import FakeControl

StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def network() -> AsyncIterator[FakeControl]:
    made = FakeControl()
    yield made
    for host in made.hosts.values():
        await host.close()


@pytest.fixture
async def relay(network: FakeControl) -> AsyncIterator[HomeRelay]:
    made = HomeRelay(network)
    yield made
    await made.close()


@pytest.fixture
async def start(network: FakeControl) -> AsyncIterator[StartNode]:
    nodes: list[Node] = []

    async def start_node(*relays: HomeRelay, **options) -> Node:
        nodes.append(await Node.start(network, *relays, **options))
        return nodes[-1]

    yield start_node
    for node in nodes:
        await node.close()
