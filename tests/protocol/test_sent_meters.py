"""A hop countersigns what it has metered itself, and nothing else."""

import dataclasses

import pytest

from protocol.frame import Meter
from protocol.money import Work
from protocol.sent_meters import METERS_KEPT_MAX, SentMeters
from tests.protocol.samples import RECEIPT, digest

METER = Meter(
    b"s" * 16, RECEIPT.epoch, RECEIPT.steps, RECEIPT.tokens, RECEIPT.work,
    RECEIPT.link_in_hash, RECEIPT.link_out_hash, RECEIPT.final,
)  # fmt: skip


def test_a_receipt_says_what_was_metered():
    meters = SentMeters()
    assert not meters.say(RECEIPT)
    assert meters.keep(METER) is METER
    assert meters.say(RECEIPT)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": RECEIPT.tokens - 1},
        {"work": Work(1, 1, 1, 1)},
        {"link_in_hash": digest("x")},
        {"link_out_hash": digest("x")},
        {"final": True},
        {"epoch": 0},
        {"steps": RECEIPT.steps - 1},
    ],
)
def test_anything_else_is_not_what_was_metered(change):
    meters = SentMeters()
    meters.keep(METER)
    assert not meters.say(dataclasses.replace(RECEIPT, **change))


def test_old_ones_are_forgotten():
    meters = SentMeters()
    meters.keep(METER)
    for steps in range(METERS_KEPT_MAX):
        meters.keep(dataclasses.replace(METER, steps=1000 + steps))
    assert not meters.say(RECEIPT)
