"""A small Byzantine run: one seed is one run, and nobody honest loses beyond the bound."""

import pytest

from benchmarks.ledger_byzantine.people import LINK_LIARS
from benchmarks.ledger_byzantine.simulation import simulate
from benchmarks.ledger_byzantine.tables import shortfalls, table


def test_nobody_honest_loses_more_than_the_bound():
    outcome = simulate(30, seed=4)
    assert shortfalls(outcome) == [], "\n".join(table(outcome))
    assert outcome.losses.buyers.worst_nanos <= 0
    assert outcome.losses.taken_honest_nanos == 0
    assert outcome.market.statuses["accepted"] > 30
    again = simulate(30, seed=4)
    assert list(table(again))[:-1] == list(table(outcome))[:-1]


@pytest.fixture(scope="module")
def outcome():
    return simulate(80, seed=2, contested=True)


class TestContested:
    """Where the payer signs whatever a hop meters, links are what liars are caught by."""

    def test_blame_falls_on_liars_and_on_nobody_else(self, outcome):
        assert shortfalls(outcome) == [], "\n".join(table(outcome))
        assert len(outcome.judgement.blamed) >= 3
        assert outcome.blamed_wrongly == []

    def test_every_way_to_lie_about_a_link_is_contradicted(self, outcome):
        assert set(outcome.liars_contradicted) == {role.value for role in LINK_LIARS}

    def test_parked_money_goes_back_or_to_whom_was_contradicted(self, outcome):
        judgement = outcome.judgement
        assert judgement.parked_nanos > 0
        assert judgement.returned_nanos > 0
        assert judgement.cleared_nanos > 0
        assert judgement.parked_nanos == (
            judgement.returned_nanos + judgement.cleared_nanos + judgement.unclear_nanos
        )
        assert outcome.losses.parked_honest_nanos > outcome.losses.taken_honest_nanos == 0
