"""A short run of the kill harness, and its pure parts: what judges must themselves be judged."""

import dataclasses
import sys
from random import Random

import pytest

from benchmarks.kills.billing import Billing
from benchmarks.kills.campaign import Campaign, run_campaign
from benchmarks.kills.cases import HOPS, Flavour, Kind, make_case
from benchmarks.kills.growth import Growth, slope
from benchmarks.kills.judging import Expected, judge, quantile
from benchmarks.kills.registry import Registry
from protocol.envelope import seal
from protocol.identity import KeyPair
from protocol.money import Work
from protocol.receipt import Receipt, cosign

FLAVOURS = (Flavour.OPEN_FREE, Flavour.SEALED_PAID)
FAULTS = tuple(kind for kind in Kind if kind is not Kind.NONE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it forks, and reads /proc")
async def test_answers_go_on_whatever_is_done_to_their_hops():
    campaign = Campaign(
        seed=7,
        kills=12,
        lanes=2,
        warm_rounds=1,
        max_tokens=40,
        questions=(0, 3, 5),
        manners=(0, 2),
        quiet=True,
    )
    report = await run_campaign(campaign)
    told = report.as_json()
    assert not report.failures(), "\n".join(map(str, map(report.problem, report.failures())))
    assert told["all"]["count"] == 12
    assert not report.billing_faults
    assert not report.crashes
    assert not any(report.left.values()), report.left


def test_a_case_is_the_same_for_the_same_seed_and_each_kind_meets_each_hop():
    cases = [make_case(3, index, FAULTS, FLAVOURS) for index in range(len(FAULTS) * 2 * HOPS)]
    assert cases == [make_case(3, c.index, FAULTS, FLAVOURS) for c in cases]
    assert cases[0] != dataclasses.replace(make_case(4, 0, FAULTS, FLAVOURS), index=0)
    met = {(case.kind, case.hop, case.flavour) for case in cases}
    assert len(met) == len(cases)


def test_the_dead_stay_announced_for_a_while():
    registry, rng = Registry(notice_s=5.0), Random(0)
    registry.up("a")
    registry.up("b")
    registry.down("a", 10.0)
    registry.down("a", 14.0)
    assert sorted(registry.announced(14.9, rng)) == ["a", "b"]
    assert not registry.is_up("a")
    assert registry.announced(15.0, rng) == ["b"]
    registry.up("a")
    assert sorted(registry.announced(99.0, rng)) == ["a", "b"]


def told(times_s, **changed):
    word = {"error": None, "tokens": 4, "digest": "d", "times_s": times_s, "session": "s"}
    return word | changed


EXPECTED = Expected("d", 4, 10)


def test_a_stall_is_the_longest_gap_behind_the_fault_less_the_ordinary_one():
    times_s = [0.0, 0.1, 0.2, 0.5, 0.6, 1.7]
    verdict = judge(told(times_s), EXPECTED, fault_at_s=0.55, epochs=1, first_s=0.1)
    assert verdict.complete
    assert verdict.identical
    assert verdict.hit
    assert verdict.stall_s == pytest.approx(1.1 - 0.3)
    assert verdict.opening_s == pytest.approx(0.1)


def test_before_the_first_token_the_stall_is_counted_from_the_open_route():
    times_s = [0.0, 0.1, 1.2, 1.3, 1.4, 1.5]
    verdict = judge(told(times_s), EXPECTED, fault_at_s=0.1, epochs=1, first_s=0.1)
    assert verdict.stall_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("word", "complete"),
    [
        (told([0, 1, 2, 3, 4, 5], digest="other"), True),
        (told([0, 1, 2, 3, 4, 5], tokens=3), False),
        (told([0, 1, 2], error="HopFailed"), False),
        (told([0], error="HopFailed"), False),
    ],
)
def test_what_differs_is_not_identical(word, complete):
    verdict = judge(word, EXPECTED, fault_at_s=1.5, epochs=0, first_s=0.1)
    assert verdict.complete is complete
    assert not verdict.identical


def test_a_fault_behind_the_last_token_has_missed():
    verdict = judge(told([0, 1, 2, 3, 4, 5]), EXPECTED, fault_at_s=6.0, epochs=0, first_s=0.1)
    assert not verdict.hit
    assert verdict.stall_s is None


def test_quantiles():
    assert quantile([], 0.5) is None
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 1.0) == 3.0


PAYER, HOP = KeyPair.generate(), KeyPair.generate()
LEASE, SESSION = bytes(16), "ab" * 16


def receipt(sequence, tokens, *, steps=1, final=False):
    signed = Receipt(
        lease_id=LEASE, sequence=sequence, epoch=0, steps=steps, tokens=tokens, work=Work(),
        amount_nanos=0, link_in_hash=bytes(32), link_out_hash=bytes(32), final=final,
    )  # fmt: skip
    return cosign(seal(signed, PAYER).encode(), HOP).encode()


def billing():
    made = Billing()
    made.leased({"leased": LEASE.hex(), "session": SESSION, "hop": 1, "provider": "hop"})
    return made


def test_what_arrived_may_be_billed_and_so_may_replays():
    bill = billing()
    bill.receipt("hop", receipt(1, 8))
    bill.receipt("hop", receipt(2, 14, final=True))
    bill.receipt("hop", receipt(2, 14, final=True))
    bill.replayed("hop", SESSION, 4)
    assert bill.close(SESSION, 10) == []
    assert bill.short(SESSION, 14) == 0
    assert bill.short(SESSION, 15) == 1


@pytest.mark.parametrize(
    ("receipts", "says"),
    [
        ([(1, 11)], "11 rows billed"),
        ([(1, 8), (1, 9)], "two receipts of sequence 1"),
        ([(1, 8), (2, 7)], "covers less"),
        ([(2, 7), (1, 8)], "covers more"),
    ],
)
def test_a_bill_that_is_wrong_is_told(receipts, says):
    bill = billing()
    for sequence, tokens in receipts:
        bill.receipt("hop", receipt(sequence, tokens))
    bill.close(SESSION, 10)
    assert any(says in fault for fault in bill.faults)


def test_a_receipt_of_somebody_elses_lease_is_told():
    bill = billing()
    bill.receipt("other", receipt(1, 5))
    assert bill.faults


def test_the_slope_is_that_behind_the_warm_up():
    found = slope([(0, 10.0), (10, 20.0), (20, 30.0)])
    assert (found.first, found.last, found.per_answer) == pytest.approx((10.0, 30.0, 1.0))
    growth = Growth()
    for answers in range(10):
        growth.add("head", answers, {"rss_kib": 100 if answers < 3 else 200, "fds": 7})
    slopes = growth.slopes("head")
    assert slopes["rss_kib"].per_answer == pytest.approx(0.0)
    assert slopes["fds"].last == pytest.approx(7.0)
