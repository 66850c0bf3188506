import asyncio

from protocol.identity import KeyPair
from transport.quic.budget import HeldBudget
from transport.quic.host import QuicHost


def test_who_holds_most_is_named_above_the_limit():
    budget = HeldBudget(100)
    assert budget.note("a", 30) is None
    assert budget.note("b", 60) is None
    assert budget.note("a", 50) == "b"
    budget.forget("b")
    assert budget.total_bytes == 50
    assert budget.note("a", 0) is None
    assert budget.total_bytes == 0


async def test_a_host_closes_who_makes_it_hold_too_much():
    host = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    host.budget = HeldBudget(300_000)
    unread = asyncio.Event()

    async def never_reads(_stream):
        await unread.wait()

    host.set_handler("/test/1", never_reads)
    peers = [await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1") for _ in range(2)]
    try:
        connections = [
            await peer.connect(host.peer_id, host.addresses, timeout_s=5) for peer in peers
        ]
        for connection, size in zip(connections, (50_000, 290_000), strict=True):
            stream = await connection.open_stream("/test/1")
            await stream.send(bytes(size))
        async with asyncio.timeout(5):
            while not connections[1].is_closed:
                await asyncio.sleep(0.01)
        assert not connections[0].is_closed
        assert 50_000 <= host.budget.total_bytes < 60_000
    finally:
        unread.set()
        for each in (*peers, host):
            await each.close()
