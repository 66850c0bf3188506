"""When a peer is pinged, and when he is given up; on a clock that jumps over all waiting."""

import trio
from trio.testing import MockClock

from transport.control.liveness import Liveness
from transport.control.settings import ControlSettings

SETTINGS = ControlSettings(keepalive_s=5, idle_timeout_s=12, answer_timeout_s=3)


class Peer:
    """Answers pings while `answers`; `said` is what was done and when."""

    def __init__(self, *, answers):
        self.answers = answers
        self.heard_at_s = trio.current_time()
        self.said = []
        self.liveness = Liveness(SETTINGS, self, self.ping, self.give_up)

    async def ping(self):
        self.said.append(("ping", trio.current_time()))
        if self.answers:
            await trio.sleep(0.05)
            self.hear()

    async def give_up(self, reason):
        self.said.append(("gone", trio.current_time()))
        self.reason = reason

    def hear(self):
        self.heard_at_s = trio.current_time()

    @property
    def gone_at_s(self):
        return next((when for what, when in self.said if what == "gone"), None)


def run(answers, body):
    async def main():
        peer = Peer(answers=answers)
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(peer.liveness.watch)
            await trio.sleep(0)
            await body(peer)
            nursery.cancel_scope.cancel()
        peer.said = [(what, when - began) for what, when in peer.said]
        return peer

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_silent_peer_is_pinged_and_kept_as_long_as_he_answers():
    async def body(peer):
        await trio.sleep(100)

    peer = run(True, body)
    assert peer.gone_at_s is None
    assert 10 <= len(peer.said) <= 20


def test_a_dead_peer_is_given_up_after_several_pings():
    async def body(peer):
        await trio.sleep(13)

    peer = run(False, body)
    assert [what for what, _ in peer.said] == ["ping", "ping", "ping", "gone"]
    assert 12 <= peer.gone_at_s <= 15
    assert "12" in peer.reason


def test_a_dead_peer_of_whom_something_is_wanted_is_given_up_sooner():
    async def body(peer):
        peer.liveness.expect_answer()
        await trio.sleep(4)

    peer = run(False, body)
    assert [(what, round(when, 3)) for what, when in peer.said] == [("ping", 1.5), ("gone", 3.0)]
    assert "after a stream was opened" in peer.reason


def test_a_peer_that_says_anything_is_kept():
    async def body(peer):
        peer.liveness.expect_answer()
        await trio.sleep(0.5)
        peer.hear()
        await trio.sleep(4)

    assert run(False, body).said == []


def test_a_peer_that_only_answers_pings_is_kept():
    async def body(peer):
        for _ in range(5):
            peer.liveness.expect_answer()
            await trio.sleep(4)

    peer = run(True, body)
    assert [what for what, _ in peer.said] == ["ping"] * 5


def test_a_peer_that_dies_between_two_streams_is_judged_from_the_second():
    async def body(peer):
        peer.liveness.expect_answer()
        await trio.sleep(0.2)
        peer.hear()
        await trio.sleep(0.1)
        for _ in range(20):  # more of them do not put the verdict off
            peer.liveness.expect_answer()
            await trio.sleep(0.2)

    peer = run(False, body)
    assert round(peer.gone_at_s, 3) == 3.3
