"""What is saved is what is loaded; a damaged file is named, never guessed at."""

import json
from dataclasses import replace

import pytest

from node.errors import ConfigInvalid
from node.household.hours import parse_hours
from node.household.limits import LIMITS_FILE, Limits, load_limits, save_limits, with_floor
from protocol.money import Rates

LIMITS = Limits(
    hours=parse_hours("mon-fri 22-7"),
    data_cap_bytes=500 << 30,
    upload_bytes_s=1_000_000,
    pause_while_busy=True,
    floor_decode_nanos=5,
    paused_until_s=1_800_000_000,
)


def test_without_a_file_nothing_is_limited(tmp_path):
    assert load_limits(tmp_path) == Limits()


def test_limits_come_back(tmp_path):
    save_limits(tmp_path / "home", LIMITS)
    assert load_limits(tmp_path / "home") == LIMITS


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '"x"',
        json.dumps({"hours": "25-3"}),
        json.dumps({"data_cap_bytes": -1}),
        json.dumps({"data_cap_bytes": 1.5}),
        json.dumps({"data_cap_bytes": True}),
        json.dumps({"pause_while_busy": 1}),
        json.dumps({"colour": "blue"}),
        json.dumps({"upload_bytes_s": 10**30}),
        " " * 70_000,
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / LIMITS_FILE).write_text(text)
    with pytest.raises(ConfigInvalid):
        load_limits(tmp_path)


def test_nothing_is_offered_below_the_floor():
    limits = replace(LIMITS, floor_prefill_nanos=100, floor_decode_nanos=5)
    assert with_floor(Rates(50, 10, 1), limits) == Rates(100, 10, 1)


def test_an_absurd_floor_is_refused():
    with pytest.raises(ConfigInvalid):
        with_floor(Rates(1, 1, 1), replace(LIMITS, floor_decode_nanos=10**15))
