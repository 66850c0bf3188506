"""Log entries: round trips, and nothing but AuditFailed from strange bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import AuditFailed
from ledger.leaf import (
    LANES_PER_HOLD_MAX,
    LEAF_BYTES_MAX,
    LaneCredit,
    ReceiptLeaf,
    SettlementLeaf,
    decode_leaf,
    encode_leaf,
)
from protocol.record import encode_canonical
from tests.ledger.world import PROVIDER, id_of

CREDIT = LaneCredit(id_of("lease"), PROVIDER.peer_id, 100)
SETTLEMENT = SettlementLeaf(id_of("hold"), 105, 5, 500, (CREDIT,))


@pytest.mark.parametrize("leaf", [ReceiptLeaf(b"lease", b"receipt"), SETTLEMENT])
def test_round_trip(leaf):
    assert decode_leaf(encode_leaf(leaf)) == leaf


def test_encoding_is_fixed():
    assert encode_leaf(ReceiptLeaf(b"a", b"b")) == encode_canonical(
        ["receipt", {"lease_envelope": b"a", "cosigned": b"b"}]
    )


def test_the_largest_settlement_fits():
    largest = LaneCredit(id_of("lease"), PROVIDER.peer_id, 2**60)
    leaf = SettlementLeaf(id_of("hold"), 2**60, 2**60, 10_000, (largest,) * LANES_PER_HOLD_MAX)
    assert len(encode_leaf(leaf)) <= LEAF_BYTES_MAX
    assert decode_leaf(encode_leaf(leaf)) == leaf


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data):
    try:
        leaf = decode_leaf(data)
    except AuditFailed:
        return
    assert encode_leaf(leaf) == data


@pytest.mark.parametrize(
    "value",
    [[], ["receipt"], ["payout", {}], ["receipt", {}, {}], {"receipt": {}}, [["receipt"], {}], 1],
)
def test_other_shapes_are_refused(value):
    with pytest.raises(AuditFailed):
        decode_leaf(encode_canonical(value))
