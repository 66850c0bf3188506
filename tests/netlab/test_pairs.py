"""Homes behind different NATs meet: directly where theory allows it, by the relay where not.

The benchmark `nat_pairs` has every kind with every other; here are those that differ most.
"""

import pytest

from tests.netlab.nat import NatKind
from tests.netlab.pairs import is_direct_possible, meet_all
from tests.netlab.requirements import needs_lab

pytestmark = [needs_lab, pytest.mark.slow]

KINDS = (NatKind.REMAPPING, NatKind.SYMMETRIC, NatKind.UDP_BLOCKED)


def test_all_pairs_connect_and_punch_where_theory_allows():
    for met in meet_all(KINDS):
        assert not met.error, met
        assert (met.direct_ms is not None) == is_direct_possible(*met.kinds), met
