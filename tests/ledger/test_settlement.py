"""Settlement is arithmetic: it conserves, repeats to nothing, and does not care about order."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import Unbalanced
from ledger.settlement import LaneState, settle_hold
from protocol.money import BASIS_POINTS
from tests.ledger.world import key_of

PROVIDERS = [key_of(f"provider {number}").peer_id for number in range(4)]
AMOUNTS = st.integers(0, 2**50)
FEES = st.integers(0, BASIS_POINTS)
VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "settlement.json").read_text())


@st.composite
def lane_states(draw):
    settled = draw(AMOUNTS)
    return LaneState(draw(st.sampled_from(PROVIDERS)), settled + draw(AMOUNTS), settled)


LANES = st.lists(lane_states(), max_size=12)


def test_the_golden_receipt():
    lane = LaneState(PROVIDERS[0], VECTOR["amount_nanos"])
    settlement = settle_hold([lane], 500)
    assert settlement.charged_nanos == VECTOR["with_fee_nanos"]
    assert settlement.credits == ((PROVIDERS[0], VECTOR["amount_nanos"]),)
    assert settlement.fee_nanos == VECTOR["with_fee_nanos"] - VECTOR["amount_nanos"]


@given(LANES, FEES)
def test_conserves_every_nano(lanes, fee):
    settlement = settle_hold(lanes, fee)
    credited = sum(nanos for _, nanos in settlement.credits)
    assert credited + settlement.fee_nanos == settlement.charged_nanos
    assert settlement.fee_nanos == credited * fee // BASIS_POINTS
    assert all(nanos >= 0 for _, nanos in settlement.credits)


@given(LANES, FEES)
def test_settling_again_pays_nothing(lanes, fee):
    settled = [
        LaneState(lane.provider, lane.amount_received_nanos, lane.amount_received_nanos)
        for lane in lanes
    ]
    again = settle_hold(settled, fee)
    assert again.charged_nanos == again.fee_nanos == sum(nanos for _, nanos in again.credits) == 0


@given(LANES, FEES, st.randoms(use_true_random=False))
def test_order_of_lanes_changes_no_sum(lanes, fee, random):
    shuffled = random.sample(lanes, len(lanes))
    one, other = settle_hold(lanes, fee), settle_hold(shuffled, fee)
    assert (one.charged_nanos, one.fee_nanos) == (other.charged_nanos, other.fee_nanos)
    assert sorted(one.credits) == sorted(other.credits)


@pytest.mark.parametrize(("received", "settled"), [(5, 6), (5, -1), (-1, -1)])
def test_a_watermark_beyond_its_receipts_is_refused(received, settled):
    with pytest.raises(Unbalanced):
        settle_hold([LaneState(PROVIDERS[0], received, settled)], 0)


@pytest.mark.parametrize("fee", [-1, BASIS_POINTS + 1])
def test_an_impossible_fee_is_refused(fee):
    with pytest.raises(Unbalanced):
        settle_hold([], fee)
