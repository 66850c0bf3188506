import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import open_envelope
from protocol.errors import LimitExceeded, RemoteProtocolError
from protocol.lease import Lease
from protocol.limits import HOPS_MAX
from protocol.money import Work, amount_nanos
from tests.protocol.samples import LEASE, MARKET, NOW_S, RATES, WORK
from tests.protocol.test_receipt import VECTOR


class TestLease:
    def test_is_what_the_vector_says(self):
        sealed = bytes.fromhex(VECTOR["lease"])
        assert open_envelope(Lease, sealed, signer=MARKET.peer_id) == LEASE
        assert VECTOR["lease_domain"] == Lease.DOMAIN

    @pytest.mark.parametrize(
        "change",
        [
            {"lease_id": b"short"},
            {"session_id": bytes(17)},
            {"hold_id": b""},
            {"payer_key": bytes(31)},
            {"hop_index": -1},
            {"hop_index": 3},
            {"hop_count": HOPS_MAX + 1},
            {"window_tokens": 0},
            {"credit_windows": 0},
            {"tokens_max": 0},
            {"fee_basis_points": -1},
            {"fee_basis_points": 10_001},
            {"amount_nanos_max": -1},
            {"expires_at_s": NOW_S},
            {"settle_by_s": NOW_S + 119},
        ],
        ids=str,
    )
    def test_refuses_impossible_terms(self, change):
        with pytest.raises(RemoteProtocolError):
            dataclasses.replace(LEASE, **change)

    def test_credit_is_a_number_of_windows(self):
        assert LEASE.credit_tokens == LEASE.window_tokens * LEASE.credit_windows


class TestAmountFor:
    def test_is_what_the_work_earns(self):
        assert LEASE.amount_for(WORK) == amount_nanos(WORK, RATES)

    @given(st.integers(0, 3), st.integers(1, 2**20))
    def test_refuses_more_work_than_was_leased(self, index, excess):
        counts = [4_000, 4_000, 2_000_000, 2_000_000]
        assert LEASE.work_max == Work(*counts)
        counts[index] += excess
        with pytest.raises(LimitExceeded):
            LEASE.amount_for(Work(*counts))

    def test_refuses_more_money_than_was_held(self):
        small = dataclasses.replace(LEASE, amount_nanos_max=LEASE.amount_for(WORK) - 1)
        with pytest.raises(LimitExceeded, match="nanos"):
            small.amount_for(WORK)
