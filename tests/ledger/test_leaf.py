"""Log entries: round trips, and nothing but AuditFailed from strange bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import AuditFailed
from ledger.leaf import (
    LANES_PER_HOLD_MAX,
    LEAF_BYTES_MAX,
    EquivocationLeaf,
    LaneCredit,
    ParkLeaf,
    ReceiptLeaf,
    RulingLeaf,
    SettlementLeaf,
    decode_leaf,
    encode_leaf,
)
from protocol.record import encode_canonical, encode_fields
from tests.ledger.world import PROVIDER, id_of

CREDIT = LaneCredit(id_of("lease"), PROVIDER.peer_id, 100)
SETTLEMENT = SettlementLeaf(id_of("hold"), 105, 5, 500, (CREDIT,))


PARKED = LaneCredit(id_of("lease"), PROVIDER.peer_id, 100, parked=True)
PARK = ParkLeaf(id_of("dispute"), id_of("lease"), PROVIDER.peer_id, 100, "bad_output")
RULING = RulingLeaf(id_of("dispute"), id_of("lease"), PROVIDER.peer_id, 60, 40, "shared")


@pytest.mark.parametrize(
    "leaf",
    [
        ReceiptLeaf(b"lease", b"receipt"),
        SETTLEMENT,
        SettlementLeaf(id_of("hold"), 105, 5, 500, (CREDIT, PARKED)),
        PARK,
        RULING,
        EquivocationLeaf(b"lease", b"first", b"second"),
    ],
)
def test_round_trip(leaf):
    assert decode_leaf(encode_leaf(leaf)) == leaf


def test_encoding_is_fixed():
    assert encode_leaf(ReceiptLeaf(b"a", b"b")) == encode_canonical(
        ["receipt", {"lease_envelope": b"a", "cosigned": b"b"}]
    )
    lease, provider = id_of("lease"), PROVIDER.peer_id.public_key
    credit = {"lease_id": lease, "provider": provider, "nanos": 100, "parked": False}
    assert encode_leaf(SETTLEMENT) == encode_canonical(
        [
            "settlement",
            {
                "hold_id": id_of("hold"),
                "charged_nanos": 105,
                "fee_nanos": 5,
                "fee_basis_points": 500,
                "credits": [credit],
            },
        ]
    )
    assert encode_leaf(EquivocationLeaf(b"l", b"a", b"b")) == encode_canonical(
        ["equivocation", {"lease_envelope": b"l", "first": b"a", "second": b"b"}]
    )


@pytest.mark.parametrize("field", ["to_provider_nanos", "to_buyer_nanos"])
def test_a_ruling_takes_nothing(field):
    fields = {**encode_fields(RULING), field: -1}
    with pytest.raises(AuditFailed):
        decode_leaf(encode_canonical(["ruling", fields]))


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
