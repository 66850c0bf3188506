import pytest

from transport.paths.awake_clock import STALL_S, AwakeClock
from transport.quic.liveness import Liveness, Verdict
from transport.quic.settings import QuicSettings


def live(until: float, *, is_busy: bool, answers=lambda now: False, stalls=()) -> list:
    """The verdicts of a connection that was last heard at 0, as (time, verdict)."""
    liveness, now, verdicts = Liveness(QuicSettings(), 0.0), 0.0, []
    stalls = dict(stalls)
    while now < until:
        due = liveness.next_check(is_busy=is_busy)
        assert due > now or verdicts == []
        now = max(now, due + 1e-9)
        for begin in [begin for begin in stalls if begin <= now]:
            now += stalls.pop(begin)
        verdict = liveness.check(now, is_busy=is_busy)
        if verdict is not Verdict.FINE:
            verdicts.append((pytest.approx(now, abs=0.01), verdict))
        if verdict is Verdict.GONE:
            break
        if verdict is Verdict.PING and answers(now):
            liveness.on_heard(now + 0.05)
    return verdicts


class TestLiveness:
    def test_busy_connection_pings_after_1500_ms_and_gives_up_at_five_seconds(self):
        pings = [(time, Verdict.PING) for time in (1.5, 2.5, 3.5, 4.5)]
        assert live(20, is_busy=True) == [*pings, (5.0, Verdict.GONE)]

    def test_idle_connection_pings_at_its_keepalive_and_needs_three_unanswered(self):
        pings = [(time, Verdict.PING) for time in (5.0, 6.0, 7.0)]
        assert live(20, is_busy=False) == [*pings, (7.5, Verdict.GONE)]

    def test_answered_pings_keep_it(self):
        verdicts = live(30, is_busy=True, answers=lambda now: True)
        assert {verdict for _, verdict in verdicts} == {Verdict.PING}
        assert len(verdicts) == pytest.approx(30 / 1.55, abs=2)

    def test_lossy_peer_is_kept_while_one_of_three_pings_is_answered(self):
        numbers = iter(range(1000))
        verdicts = live(60, is_busy=True, answers=lambda now: next(numbers) % 3 == 2)
        assert {verdict for _, verdict in verdicts} == {Verdict.PING}

    def test_own_sleep_does_not_count(self):
        verdicts = live(100, is_busy=True, stalls=[(2.0, 60.0)])
        assert verdicts[-1] == (65.0, Verdict.GONE)  # as many pings as without
        assert len(verdicts) == 5

    def test_who_keeps_asking_for_a_verdict_is_told_to_ping_meanwhile(self):
        liveness = Liveness(QuicSettings(), 0.0)
        now = 0.0
        for _ in range(50):
            now = max(now, liveness.next_check(is_busy=True))
            liveness.check(now, is_busy=True)
            assert liveness.next_check(is_busy=True) > now


class TestAwakeClock:
    def test_late_timer_moves_the_clock_back_by_its_lateness(self):
        clock = AwakeClock()
        clock.expect(10.0)
        assert clock.read(5.0) == 5.0
        assert clock.read(30.0) == 10.0
        assert clock.read(31.0) == 11.0
        assert clock.slept_s == 20.0

    def test_a_busy_moment_is_no_sleep(self):
        clock = AwakeClock()
        clock.expect(10.0)
        assert clock.read(10.0 + STALL_S / 2) == 10.0 + STALL_S / 2
