"""One direction of a line, without a network: what is held, lost and put in another order."""

from tests.netlab.line import FRAMES_MAX, Impairment, Line


def drain(line: Line, now: float) -> list[bytes]:
    frames = []
    while (frame := line.due(now)) is not None:
        frames.append(frame)
    return frames


def test_frame_is_due_after_the_delay_and_not_before():
    line = Line(Impairment(delay_ms=20))
    line.accept(b"x", now=1.0)
    assert line.due(1.019) is None
    assert line.due(1.021) == b"x"


def test_jitter_keeps_the_order_unless_it_is_asked_not_to():
    frames = [bytes([number]) for number in range(200)]
    for reorders in (False, True):
        line = Line(Impairment(delay_ms=20, jitter_ms=10, reorders=reorders))
        for at, frame in enumerate(frames):
            line.accept(frame, now=at / 1000)
        came = drain(line, now=10.0)
        assert sorted(came) == frames
        assert (came == frames) != reorders


def test_what_is_lost_and_what_finds_the_line_full_is_counted():
    lossy = Line(Impairment(loss=1.0))
    lossy.accept(b"x", now=0.0)
    assert (lossy.lost, lossy.due(9.0)) == (1, None)
    full = Line(Impairment(delay_ms=1000))
    for _ in range(FRAMES_MAX + 5):
        full.accept(b"x", now=0.0)
    assert (full.overflowed, len(full.held)) == (5, FRAMES_MAX)
