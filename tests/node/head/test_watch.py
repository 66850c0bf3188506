"""Silence, a dead link and mere work are told apart, by times that were measured."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from node.head import watch as w
from node.head.watch import Watch

ROW = 1024
HOPS = 3


class World:
    """Hops that answer probes after a round trip, and a watch that is asked when it wants to be."""

    def __init__(self, *, rtt_s=0.06, step_s=0.1):
        self.now_s = 100.0
        self.rtt_s = rtt_s
        self.step_s = step_s
        self.watch = Watch(HOPS, ROW, self.now_s)
        self.rows = [(0, 0)] * HOPS
        self.silent = set()
        self.rounds = 0
        self.answers = []

    def learn(self, steps=5):
        """Some ordinary steps, and the probes that go out when a route is open."""
        self.round()
        self.run(self.rtt_s + 0.02)
        for _ in range(steps):
            self.watch.waiting(self.now_s)
            self.now_s += self.step_s
            self.watch.arrived(self.now_s, still_waiting=False)

    def round(self):
        self.rounds += 1
        nonce = self.watch.probe(range(HOPS), self.now_s)
        for hop in set(range(HOPS)) - self.silent:
            self.answers.append((self.now_s + self.rtt_s, hop, nonce))

    def deliver(self):
        for answer in [a for a in self.answers if a[0] <= self.now_s]:
            self.answers.remove(answer)
            _, hop, nonce = answer
            self.watch.progress(hop, nonce, *self.rows[hop], self.now_s)

    def run(self, for_s):
        """Let time pass; gives the first verdict and how long it took."""
        began_s = self.now_s
        while self.now_s < began_s + for_s:
            self.deliver()
            if self.watch.should_probe(self.now_s):
                if lost := self.watch.lost(self.now_s):
                    self.all_lost = {each.index for each in lost}
                    return lost[0], self.now_s - began_s
                self.round()
            self.now_s += 0.01
        return None, for_s


def test_nothing_is_asked_while_nothing_is_late():
    world = World()
    world.learn()
    rounds = world.rounds
    for _ in range(50):
        world.watch.waiting(world.now_s)
        assert world.run(world.step_s) == (None, world.step_s)
        world.watch.arrived(world.now_s, still_waiting=False)
    assert world.rounds == rounds
    assert world.run(60) == (None, 60), "and while nothing is under way"


def test_a_silent_hop_is_found_within_a_second_of_a_home_route():
    world = World()
    world.learn()
    world.silent = {1}
    world.watch.waiting(world.now_s)
    lost, after_s = world.run(10)
    assert lost.index == 1
    assert "probe" in lost.reason
    assert after_s <= w.LATE_FACTOR * world.step_s + 2 * (w.PROBE_MIN_S + 3 * world.rtt_s) + 0.1


def test_a_hop_at_work_is_left_in_peace_until_it_is_absurd():
    world = World()
    world.learn()
    world.rows = [(9, 9), (9, 5), (5, 5)]
    world.watch.waiting(world.now_s)
    world.watch.arrived(world.now_s, still_waiting=True, rows=5)
    lost, after_s = world.run(60)
    assert lost.index == 1
    assert after_s >= w.WORK_MIN_S


def test_a_link_that_delivers_nothing_is_told_from_a_slow_one():
    world = World()
    world.learn()
    world.rows = [(9, 9), (9, 9), (5, 5)]
    world.watch.waiting(world.now_s)
    world.watch.arrived(world.now_s, still_waiting=True, rows=5)
    lost, after_s = world.run(10)
    assert lost.index == 2
    assert after_s < 3

    slow = World()
    slow.learn()
    slow.watch.waiting(slow.now_s)
    for rows in range(40):
        slow.rows = [(99, 99), (rows, rows), (rows, rows)]
        assert slow.run(0.9)[0] is None, "rows still come in"


def test_many_rows_may_take_long_on_a_slow_uplink():
    world = World()
    world.learn()
    rows = 1000
    world.rows = [(rows, rows), (0, 0), (0, 0)]
    world.watch.waiting(world.now_s)
    lost, after_s = world.run(60)
    assert lost.index == 1
    assert after_s >= rows * ROW / w.LINK_RATE_MIN


def test_whoever_takes_a_place_starts_with_a_clean_slate():
    world = World()
    world.learn()
    world.silent = {1}
    world.watch.waiting(world.now_s)
    assert world.run(10)[0].index == 1
    world.silent = set()
    world.watch.replaced(1, world.now_s)
    world.watch.waiting(world.now_s)
    assert world.run(5)[0] is None


@settings(deadline=None)
@given(st.sets(st.integers(0, HOPS - 1), min_size=1), st.floats(0.001, 0.5))
def test_every_silent_hop_is_found_and_no_other(silent, rtt_s):
    world = World(rtt_s=rtt_s)
    world.learn()
    world.silent = set(silent)
    found = set()
    for _ in itertools.repeat(None, HOPS):
        world.watch.waiting(world.now_s)
        lost, _ = world.run(30)
        if lost is None:
            break
        found |= world.all_lost
        for index in world.all_lost:
            world.silent.discard(index)
            world.watch.replaced(index, world.now_s)
        world.watch.arrived(world.now_s, still_waiting=False)
    assert found == silent


def test_all_that_are_silent_are_found_at_once():
    world = World()
    world.learn()
    world.silent = {0, 2}
    world.watch.waiting(world.now_s)
    world.run(10)
    assert world.all_lost == {0, 2}


def test_a_last_hop_that_swallows_a_result_is_found_by_what_it_says():
    world = World()
    world.learn()
    world.watch.waiting(world.now_s)
    world.watch.arrived(world.now_s, still_waiting=True, rows=8)
    world.rows = [(9, 9), (9, 9), (9, 9)]
    lost, after_s = world.run(10)
    assert (lost.index, after_s < 3) == (2, True)


def test_a_prompts_chunks_say_nothing_of_the_steps_behind_them():
    world = World(step_s=0.02)
    world.watch.waiting(world.now_s)
    world.now_s += 30
    world.watch.arrived(world.now_s, still_waiting=False, is_measured=False)
    world.learn()
    world.silent = {1}
    world.watch.waiting(world.now_s)
    assert world.run(10)[1] < 1
