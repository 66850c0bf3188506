"""Hours are read as people write them, and mean what they say over midnight and the week's end."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ConfigInvalid
from node.household.hours import Hours, is_open, next_change, parse_hours, text_of

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22-7", [at(0, 22), at(0, 6, 59), at(6, 23)], [at(0, 7), at(0, 21, 59)]),
        ("9:30-17", [at(2, 9, 30), at(2, 16, 59)], [at(2, 9, 29), at(2, 17)]),
        ("sat,sun 0-24", [at(5, 0), at(6, 23, 59)], [at(4, 23, 59), at(7, 0)]),
        ("fri 22-6", [at(4, 22), at(5, 5, 59)], [at(5, 6), at(5, 22), at(4, 5)]),
        ("sun 22-6", [at(6, 23), at(7, 5)], [at(7, 6), at(1, 5)]),
        ("fri-mon 1-2", [at(4, 1), at(5, 1), at(6, 1), at(0, 1)], [at(1, 1), at(3, 1)]),
        ("mon 8-9; tue 10-11", [at(0, 8), at(1, 10)], [at(0, 10), at(1, 8)]),
        ("", [at(3, 3)], []),
    ],
)
def test_hours_cover_what_they_say(text, inside, outside):
    hours = parse_hours(text)
    assert all(is_open(hours, moment) for moment in inside)
    assert not any(is_open(hours, moment) for moment in outside)
    assert parse_hours(text_of(hours)) == hours


@pytest.mark.parametrize(
    "text", ["25-3", "8", "8-8", "24-3", "noon-1", "foo 8-9", "8:60-9", "mon- 8-9", "8-9;" * 30]
)
def test_nonsense_is_refused_with_an_example(text):
    with pytest.raises(ConfigInvalid, match="22:00-07:00"):
        parse_hours(text)


spans = st.builds(
    lambda days, start, length: Hours(days, start, start + length),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1439),
)


@given(st.lists(spans, min_size=1, max_size=3).map(tuple), st.integers(0, 7 * 24 * 60))
def test_the_next_change_is_the_first_minute_that_differs(hours, minute):
    now = MONDAY + timedelta(minutes=minute)
    change = next_change(hours, now)
    state = is_open(hours, now)
    for step in range(1, 8 * 24 * 60, 7):
        moment = now + timedelta(minutes=step)
        if change is None or moment < change:
            assert is_open(hours, moment) == state
    if change is not None:
        assert is_open(hours, change) != state
