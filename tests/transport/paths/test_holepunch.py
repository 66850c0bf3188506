"""Every pair of NATs meets exactly where theory says it can, and where ports can be predicted."""

from itertools import combinations_with_replacement

import pytest

from protocol.reach import Candidate, CandidateKind, Filtering, Mapping, NATHints
from tests.transport.nat_world import End, World, nats, punch
from transport.base import PathKind
from transport.paths.holepunch import (
    GRACE_S,
    PREDICTED_PORTS_MAX,
    ROUND_COUNT,
    ROUND_S,
    Punch,
    PunchOutcome,
)

KINDS = (
    "none",
    "firewall",
    "full-cone",
    "restricted-cone",
    "port-restricted",
    "port-restricted-remap",
    "symmetric",
    "symmetric-narrow",
    "cgnat",
    "udp-blocked",
)
FILTERING_BY_PORT = {"firewall", "port-restricted", "port-restricted-remap", "cgnat"}
SYMMETRIC = {"symmetric", "symmetric-narrow", "sequential"}
PREDICTABLE = {"symmetric-narrow", "sequential"}

PUBLIC = [Candidate(CandidateKind.OBSERVED, "203.0.113.1", 4001)]


def can_meet(a: str, b: str) -> bool:
    """Theory, with prediction where one side is easy."""
    kinds = {a, b}
    if "udp-blocked" in kinds or kinds <= SYMMETRIC:
        return False
    if kinds & SYMMETRIC and kinds & FILTERING_BY_PORT:
        return bool(kinds & PREDICTABLE)
    return True


def meet(a: str, b: str, seed: int = 1) -> tuple[World, bool]:
    world = World()
    for site, kind in enumerate((a, b), start=1):
        End(world, site, nats(kind, site, seed))
    punch(world)
    have_met = world.run(8, lambda: all(end.path is not None for end in world.ends))
    return world, have_met


class TestPairs:
    @pytest.mark.parametrize(("a", "b"), list(combinations_with_replacement(KINDS, 2)))
    def test_meets_where_theory_allows(self, a: str, b: str):
        for first, second in {(a, b), (b, a)}:
            world, have_met = meet(first, second)
            assert have_met is can_meet(a, b)
            punches = [end.punch for end in world.ends]
            if have_met:
                world.run(GRACE_S + 0.2)
                assert {p.outcome for p in punches} == {PunchOutcome.SUCCEEDED}
                assert all("answered after" in p.reason for p in punches)
            else:
                world.run(2)
                assert {p.outcome for p in punches} == {PunchOutcome.FAILED}
            assert all(p.is_over for p in punches)

    @pytest.mark.parametrize("easy", sorted(FILTERING_BY_PORT))
    @pytest.mark.parametrize("hard", sorted(PREDICTABLE))
    def test_predicts_the_port_of_a_symmetric_peer_every_time(self, easy: str, hard: str):
        for seed in range(20):
            world, have_met = meet(easy, hard, seed)
            assert have_met, seed
            assert world.ends[0].probe_count < 1000

    def test_a_busy_symmetric_nat_is_still_predicted(self):
        world = World()
        End(world, 1, nats("port-restricted", 1))
        hard = End(world, 2, nats("sequential", 2))
        punch(world)
        for index in range(20):  # other hosts of that home open mappings meanwhile
            hard.nats[0].outgoing(("192.168.2.9", index), ("192.0.2.1", 1))
        assert world.run(3, lambda: all(end.path is not None for end in world.ends))

    def test_two_hosts_of_one_home_meet_on_their_lan(self):
        world = World()
        boxes = nats("symmetric", 1)
        End(world, 1, boxes, host=2)
        End(world, 1, boxes, host=3)
        punch(world)
        assert world.run(1, lambda: all(end.path is not None for end in world.ends))
        assert world.ends[0].path == world.ends[1].address

    def test_reason_of_failure_names_the_nats(self):
        world, _ = meet("symmetric", "symmetric")
        world.run(3)
        assert "both NATs are symmetric" in world.ends[0].punch.reason
        world, _ = meet("udp-blocked", "none")
        world.run(3)
        assert "UDP is blocked" in world.ends[1].punch.reason


class TestSchedule:
    def make(self, peers: list[Candidate], **options) -> Punch:
        own = options.pop("own", PUBLIC)
        peer_hints = options.pop("peer_hints", NATHints())
        return Punch(own, peers, NATHints(), peer_hints, 10.0)

    def run(self, made: Punch, until: float) -> list[tuple[float, tuple[str, int]]]:
        sent = []
        while (now := made.next_timer()) < until:
            sent += [(now, target) for target in made.poll(now)]
        return sent

    def test_nothing_is_sent_before_the_moment_agreed_on(self):
        made = self.make([Candidate(CandidateKind.OBSERVED, "203.0.113.2", 5)])
        assert made.poll(9.99) == []
        assert made.next_timer() == 10.0
        assert made.poll(10.0) == [("203.0.113.2", 5)]

    def test_probes_every_40_ms_in_two_rounds_and_then_gives_up(self):
        made = self.make([Candidate(CandidateKind.OBSERVED, "203.0.113.2", 5)])
        times = [now for now, _ in self.run(made, 100.0)]
        assert len(times) == pytest.approx(ROUND_COUNT * ROUND_S / 0.04, abs=4)
        assert times[-1] < 10 + ROUND_COUNT * (ROUND_S + 1)
        assert made.outcome is PunchOutcome.FAILED

    def test_lan_comes_first_behind_one_public_address(self):
        lan = Candidate(CandidateKind.LAN, "192.168.1.5", 7)
        made = self.make([Candidate(CandidateKind.OBSERVED, "203.0.113.1", 9), lan])
        sent = self.run(made, 11.0)
        first_outside = min(now for now, (host, _) in sent if host == "203.0.113.1")
        assert sent[0][1] == ("192.168.1.5", 7)
        assert first_outside >= 10.3

    def test_lan_addresses_of_another_site_are_tried_briefly(self):
        lan = Candidate(CandidateKind.LAN, "192.168.1.5", 7)
        made = self.make([Candidate(CandidateKind.OBSERVED, "203.0.113.2", 9), lan])
        sent = self.run(made, 13.0)
        assert max(now for now, (host, _) in sent if host == "192.168.1.5") < 11.1

    def test_prediction_is_bounded_and_each_port_is_tried_once_a_round(self):
        hints = NATHints(Mapping.DEPENDENT, Filtering.PORT_DEPENDENT, (5000, 5001))
        made = self.make([Candidate(CandidateKind.OBSERVED, "203.0.113.2", 5001)], peer_hints=hints)
        ports = [port for _, (_, port) in self.run(made, 13.0) if port != 5001]
        assert len(ports) == len(set(ports)) == PREDICTED_PORTS_MAX - 1
        assert ports[:2] == [5002, 5003]

    def test_strangers_candidates_are_bounded_and_loopback_is_not_probed(self):
        many = [Candidate(CandidateKind.LAN, f"192.168.1.{i}", 1) for i in range(1, 100)]
        assert len(self.make(many).poll(10.0)) == 16
        made = self.make([Candidate(CandidateKind.LAN, "127.0.0.1", 22)])
        assert made.is_over
        assert made.outcome is PunchOutcome.FAILED
        assert made.poll(10.0) == []

    def test_success_ends_it_but_a_lan_is_looked_for_a_little_longer(self):
        lan = Candidate(CandidateKind.LAN, "192.168.1.5", 7)
        made = self.make([Candidate(CandidateKind.OBSERVED, "203.0.113.1", 9), lan])
        self.run(made, 10.5)
        made.on_proved(PathKind.PUNCHED, "there", 10.5)
        sent = self.run(made, 20.0)
        assert {host for _, (host, _) in sent} == {"192.168.1.5"}
        assert sent[-1][0] <= 10.5 + GRACE_S
        assert made.outcome is PunchOutcome.SUCCEEDED
