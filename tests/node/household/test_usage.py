"""Traffic is counted by month, over restarts and counters that begin anew."""

from datetime import UTC, datetime

from node.household.usage import USAGE_FILE, MonthlyUsage

NOVEMBER = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


def test_what_a_counter_grew_by_is_added(tmp_path):
    usage = MonthlyUsage(tmp_path)
    assert usage.note(100, NOVEMBER) == 100
    assert usage.note(250, NOVEMBER) == 250
    assert usage.note(300, DECEMBER) == 50
    assert usage.month_bytes(NOVEMBER) == 250


def test_a_restart_goes_on(tmp_path):
    usage = MonthlyUsage(tmp_path)
    usage.note(1000, NOVEMBER)
    usage.save()
    again = MonthlyUsage(tmp_path)
    assert again.note(10, NOVEMBER) == 1010


def test_a_counter_that_begins_anew_takes_nothing_away(tmp_path):
    usage = MonthlyUsage(tmp_path)
    usage.note(1000, NOVEMBER)
    assert usage.note(5, NOVEMBER) == 1000
    assert usage.note(8, NOVEMBER) == 1003


def test_a_year_is_kept(tmp_path):
    usage = MonthlyUsage(tmp_path)
    for year in (2024, 2025, 2026):
        for month in range(1, 13):
            usage.note(0, datetime(year, month, 1, tzinfo=UTC))
    usage.save()
    assert len((tmp_path / USAGE_FILE).read_text().splitlines()) == 13 + 2


def test_a_damaged_count_begins_anew(tmp_path):
    (tmp_path / USAGE_FILE).write_text("{nonsense")
    assert MonthlyUsage(tmp_path).month_bytes(NOVEMBER) == 0
