"""When earnings become payable and what is held: the rules alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.payouts.terms import (
    NEVER_S,
    HeldReason,
    Revenue,
    delay_s,
    reserve_basis_points,
    split,
)
from marketplace.standing.tiers import CHARGEBACK_WINDOW_S, DAY_S, Tier

DOLLAR = 1_000_000_000
END_S = 1_000 * DAY_S
NOW_S = END_S + 14 * DAY_S
MONTH_S = 30 * DAY_S


def divided(*revenues, served_s=0, linked=(), now_s=NOW_S, amount_nanos=None):
    return split(
        revenues,
        linked=frozenset(linked),
        served_s=served_s,
        period_end_s=END_S,
        now_s=now_s,
        amount_nanos=amount_nanos,
    )


def held(release):
    return {part.reason: part.amount_nanos for part in release.held}


@pytest.mark.parametrize(
    ("months", "share"), [(0, 3000), (2, 3000), (3, 2000), (5, 2000), (6, 1000), (9, 0), (99, 0)]
)
def test_the_reserve_shrinks_with_months_served(months, share):
    assert reserve_basis_points(months * MONTH_S) == share


def test_trust_shortens_the_wait():
    assert delay_s(Tier.NEW) > delay_s(Tier.GROWING) > delay_s(Tier.TRUSTED) > 0


def test_an_old_provider_of_old_buyers_is_paid_whole():
    release = divided(Revenue("b", DOLLAR), served_s=9 * MONTH_S)
    assert (release.payable_nanos, release.held) == (DOLLAR, ())


def test_a_young_buyers_money_is_held_with_the_reserve_inside_it():
    release = divided(Revenue("b", DOLLAR // 2, Tier.NEW))
    assert release.payable_nanos == 0
    assert held(release) == {HeldReason.RESERVE: 150_000_000, HeldReason.NEW_BUYER: 350_000_000}


def test_a_young_buyers_money_that_has_aged_is_not_held_for_it():
    release = divided(Revenue("b", DOLLAR // 2, Tier.NEW), now_s=END_S + MONTH_S)
    assert held(release).keys() == {HeldReason.RESERVE}


def test_one_strangers_share_above_half_waits_for_the_chargeback_window():
    release = divided(
        Revenue("s", 8 * DOLLAR, Tier.NEW, verified=False),
        Revenue("b", 2 * DOLLAR),
        served_s=9 * MONTH_S,
    )
    assert held(release) == {HeldReason.BUYER_SHARE: 3 * DOLLAR, HeldReason.NEW_BUYER: 5 * DOLLAR}
    by_reason = {part.reason: part.until_s for part in release.held}
    assert by_reason[HeldReason.BUYER_SHARE] == END_S + CHARGEBACK_WINDOW_S


def test_small_days_have_no_share_cap():
    release = divided(Revenue("s", DOLLAR - 1, Tier.NEW, verified=False), served_s=9 * MONTH_S)
    assert HeldReason.BUYER_SHARE not in held(release)


def test_a_linked_buyers_money_is_an_operators_matter_and_nothing_else():
    release = divided(Revenue("me", DOLLAR, Tier.NEW, verified=False), linked=("me",))
    (part,) = release.held
    assert (part.reason, part.buyer, part.until_s) == (HeldReason.LINKED_BUYER, "me", NEVER_S)
    assert release.payable_nanos == 0


REVENUES = st.lists(
    st.builds(
        Revenue,
        st.sampled_from(("a", "b", "c", "")),
        st.integers(1, 2**50),
        st.sampled_from(Tier),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda revenue: revenue.buyer,
)


@given(
    REVENUES,
    st.integers(0, 400 * DAY_S),
    st.sets(st.sampled_from("abc")),
    st.none() | st.integers(0, 2**51),
)
def test_the_parts_are_the_whole(revenues, served_s, linked, amount_nanos):
    total = sum(revenue.amount_nanos for revenue in revenues)
    release = divided(*revenues, served_s=served_s, linked=linked, amount_nanos=amount_nanos)
    assert release.amount_nanos == (total if amount_nanos is None else min(total, amount_nanos))
    parts = sum(part.amount_nanos for part in release.held)
    assert release.payable_nanos + parts == release.amount_nanos
    assert release.payable_nanos >= 0
    assert all(part.amount_nanos > 0 for part in release.held)


def test_of_a_day_the_reserve_is_a_share_of_what_is_not_linked():
    release = divided(
        Revenue("me", 10 * DOLLAR, Tier.NEW, verified=False),
        Revenue("b", 20 * DOLLAR),
        linked=("me",),
    )
    assert held(release) == {HeldReason.LINKED_BUYER: 10 * DOLLAR, HeldReason.RESERVE: 6 * DOLLAR}
    assert release.payable_nanos == 14 * DOLLAR


@pytest.mark.parametrize("tiers", [(Tier.NEW, Tier.GROWING), (Tier.GROWING, Tier.NEW)])
def test_young_buyers_money_waits_for_the_youngest(tiers):
    revenues = [Revenue(name, DOLLAR // 4, tier) for name, tier in zip("ab", tiers, strict=True)]
    (part,) = divided(*revenues, served_s=9 * MONTH_S).held
    assert (part.amount_nanos, part.until_s) == (DOLLAR // 2, END_S + MONTH_S)
