"""A small Byzantine run: one seed is one run, and nobody honest loses beyond the bound."""

from benchmarks.ledger_byzantine.__main__ import is_good, table
from benchmarks.ledger_byzantine.simulation import simulate


def test_nobody_honest_loses_more_than_the_bound():
    outcome = simulate(30, seed=4)
    assert is_good(outcome), "\n".join(table(outcome))
    assert outcome.losses.buyers.worst_nanos <= 0
    assert outcome.losses.taken_honest_nanos == 0
    assert outcome.market.statuses["accepted"] > 30
    again = simulate(30, seed=4)
    assert list(table(again))[3:] == list(table(outcome))[3:]
