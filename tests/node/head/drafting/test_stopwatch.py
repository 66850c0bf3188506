"""The stopwatch: which step tells what."""

import pytest

from node.head.drafting.pace import Pace
from node.head.drafting.stopwatch import Stopwatch


class NotedPace(Pace):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def note_step(self, rows, elapsed_s, *, drafted):
        self.notes.append(("alone", rows, drafted, elapsed_s))

    def note_behind(self, rows, elapsed_s, gap_s):
        self.notes.append(("behind", rows, elapsed_s, gap_s))

    def note_loop(self, elapsed_s):
        self.notes.append(("loop", elapsed_s))


@pytest.fixture
def pace():
    return NotedPace()


def test_a_step_alone_tells_the_trip_and_one_behind_it_the_gap(pace):
    stopwatch = Stopwatch(pace)
    stopwatch.sent(3, 2, 10.0, is_alone=True)
    stopwatch.sent(2, 2, 11.0, is_alone=False)
    stopwatch.came(14.0, fed_on=False)
    stopwatch.came(15.0, fed_on=False)
    assert pace.notes == [("alone", 3, 2, 4.0), ("behind", 2, 4.0, 1.0)]


def test_a_step_behind_void_ones_alone_tells_nothing(pace):
    stopwatch = Stopwatch(pace)
    stopwatch.sent(3, 2, 10.0, is_alone=True)
    stopwatch.sent(2, 2, 11.0, is_alone=False)
    stopwatch.came(14.0, fed_on=False)
    assert stopwatch.voided() == 1
    stopwatch.sent(1, 0, 14.5, is_alone=False)
    stopwatch.came(19.0, fed_on=False)
    assert pace.notes == [("alone", 3, 2, 4.0)]


def test_tokens_of_a_loop_tell_how_far_apart_they_come(pace):
    stopwatch = Stopwatch(pace)
    stopwatch.sent(1, 0, 10.0, is_alone=True)
    stopwatch.came(14.0, fed_on=True)
    stopwatch.came(17.0, fed_on=True)
    stopwatch.came(20.5, fed_on=False)
    assert pace.notes == [("alone", 1, 0, 4.0), ("loop", 3.0), ("loop", 3.5)]


def test_of_the_prompt_the_first_chunk_tells_what_rows_take():
    pace = Pace()
    stopwatch = Stopwatch(pace)
    stopwatch.sent_chunk(101, 10.0)
    stopwatch.sent_chunk(101, 10.0)
    stopwatch.came(13.0, fed_on=False)
    stopwatch.came(19.0, fed_on=False)
    stopwatch.sent(1, 0, 20.0, is_alone=True)
    stopwatch.came(21.0, fed_on=False)
    assert pace.steps.slope_s == pytest.approx(0.02)
