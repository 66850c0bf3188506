"""The public ledger as a node reads it: nonsense is one clear error, and nothing is too large."""

import httpx
import pytest

from ledger.checkpoint import NOTE_BYTES_MAX
from ledger.proof_file import PROOF_FILE_BYTES_MAX
from node.errors import MarketUnreachable
from node.market_client import MarketClient
from node.market_transport import LARGE_BYTES_MAX
from protocol.identity import KeyPair

NODE = KeyPair(b"n" * 32)


async def ask(call, answer: httpx.Response):
    transport = httpx.MockTransport(lambda _: answer)
    async with MarketClient("http://market", NODE, transport=transport) as client:
        return await call(client)


@pytest.mark.parametrize(
    ("call", "good", "bad"),
    [
        (lambda c: c.leaves(0, 1), {"leaves": ["AA=="]}, {"leaves": ["A"]}),
        (lambda c: c.consistency(1, 2), {"hashes": ["00"]}, {"hashes": ["0g"]}),
        (
            lambda c: c.logged_receipts(lease="00"),
            {"receipts": [{"lease_id": "00", "leaf_index": 1}]},
            {"receipts": [{"lease_id": "00", "leaf_index": "1"}]},
        ),
        (
            lambda c: c.balance_proofs("key"),
            {"snapshot": {"leaf_index": 1}},
            {"snapshot": None},
        ),
        (
            lambda c: c.balance_proofs(),
            {"snapshot": {"leaf_index": 1}},
            {"snapshot": {}},
        ),
    ],
    ids=["leaves", "consistency", "receipts", "balance", "balance of a machine"],
)
async def test_another_shape_is_named(call, good, bad):
    await ask(call, httpx.Response(200, json=good))
    for wrong in (bad, {}):
        with pytest.raises(MarketUnreachable, match=f"'{next(iter(good))}"):
            await ask(call, httpx.Response(200, json=wrong))


@pytest.mark.parametrize(
    ("call", "bytes_max"),
    [
        (lambda c: c.checkpoint(), NOTE_BYTES_MAX),
        (lambda c: c.proof_file(1), PROOF_FILE_BYTES_MAX),
        (lambda c: c.tile("tile/entries/000"), LARGE_BYTES_MAX),
    ],
    ids=["checkpoint", "proof", "tile"],
)
async def test_a_file_has_the_size_that_its_kind_may_have(call, bytes_max):
    assert len(await ask(call, httpx.Response(200, content=b"x" * bytes_max))) == bytes_max
    with pytest.raises(MarketUnreachable, match=f"more than {bytes_max} bytes"):
        await ask(call, httpx.Response(200, content=b"x" * (bytes_max + 1)))
