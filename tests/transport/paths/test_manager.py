"""The path manager in virtual time: two managers, real probes, paths that die and come back."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.datagram import Probe, Probed
from protocol.errors import RemoteProtocolError
from tests.transport.nat_world import KEY, LINK, End, World, nats, punch
from transport.base import PathKind
from transport.paths.actions import SendProbe, UsePath
from transport.paths.manager import PathManager
from transport.paths.path_address import CircuitPath, PathAddress, TunnelPath
from transport.paths.path_set import PATHS_MAX
from transport.paths.silence import DEAD_AFTER_S, SIGNAL_TRUST_MAX_S
from transport.paths.state import PathStatus, Rank, rank_of

RELAY = CircuitPath(("198.51.100.1", 1), b"circuit1")
RELAY_2 = CircuitPath(("198.51.100.2", 1), b"circuit2")


def world_with_relay(a: str = "port-restricted", b: str = "port-restricted") -> World:
    world = World()
    for site, kind in enumerate((a, b), start=1):
        End(world, site, nats(kind, site))
    for end in world.ends:
        end.add(RELAY, PathKind.RELAYED)
    return world


def direct_world() -> World:
    """Relayed at first, then punched; both talk."""
    world = world_with_relay()
    world.run(0.2)
    punch(world)
    for end in world.ends:
        end.talk()
    world.run(3)
    assert all(isinstance(end.path, tuple) for end in world.ends)
    return world


def direct_paths(world: World) -> set[PathAddress]:
    return {end.path for end in world.ends}


class TestBeginning:
    def test_the_relay_is_used_at_once_and_the_direct_path_when_it_is_proved(self):
        world = world_with_relay()
        assert world.run(0.3, lambda: all(end.path == RELAY for end in world.ends))
        began = world.now
        punch(world)
        assert world.run(2, lambda: all(isinstance(end.path, tuple) for end in world.ends))
        assert world.now - began < 0.6
        assert world.ends[0].uses[0][1] == RELAY

    def test_the_relay_is_used_as_soon_as_the_peer_is_heard_on_it(self):
        """His side was bound later than ours: his first probe is the first that arrives."""
        world = World()
        for site in (1, 2):
            End(world, site, nats("port-restricted", site))
        near, far = world.ends
        near.add(RELAY, PathKind.RELAYED)
        world.run(0.5)
        began = world.now
        far.add(RELAY, PathKind.RELAYED)
        assert world.run(1, lambda: near.path == RELAY)
        used_after_s = world.now - began
        assert world.run(1, lambda: far.path == RELAY)
        assert used_after_s < world.now - began, "half a round trip before him who waits for it"

    def test_a_direct_path_is_not_used_before_it_has_answered(self):
        """A captured probe can be sent from anywhere."""
        world = World()
        for site in (1, 2):
            End(world, site, nats("port-restricted", site))
        send = world.send

        def without_answers(sender: End, data: bytes, path: PathAddress) -> None:
            if data[0] != 0x0A:
                send(sender, data, path)

        world.send = without_answers  # type: ignore[method-assign]
        punch(world)
        world.run(5)
        for end in world.ends:
            assert end.path is None
            assert any(isinstance(state.path, tuple) for state in end.manager._paths)

    def test_a_better_path_needs_two_answers(self):
        world = world_with_relay()
        world.run(0.3)
        end = world.ends[0]
        answered = [False]

        send = world.send

        def only_one_answer(sender: End, data: bytes, path: PathAddress) -> None:
            if data[0] == 0x0A and isinstance(path, tuple) and sender is not end:
                if answered[0]:
                    return
                answered[0] = True
            send(sender, data, path)

        world.send = only_one_answer  # type: ignore[method-assign]
        punch(world)
        world.run(7)
        assert answered[0]
        assert end.path == RELAY

    def test_order_of_kinds(self):
        address = ("192.168.1.2", 1)
        order = [
            rank_of(address, PathKind.LAN),
            rank_of(("203.0.113.1", 1), PathKind.PUNCHED),
            rank_of(RELAY, PathKind.RELAYED),
            rank_of(TunnelPath(1), PathKind.RELAYED),
        ]
        assert order == [Rank.LAN, Rank.DIRECT, Rank.CIRCUIT, Rank.TUNNEL]
        assert [rank.value for rank in order] == sorted(rank.value for rank in order)


class TestSilence:
    def test_falls_back_within_five_seconds_and_asks_for_a_new_punch(self):
        world = direct_world()
        world.dead |= direct_paths(world)
        began = world.now
        assert world.run(5, lambda: all(end.path == RELAY for end in world.ends))
        assert world.now - began < 2.5
        assert all("the direct path fell silent" in end.wanted for end in world.ends)
        reports = world.ends[0].manager.reports(world.now)
        (ended,) = [r for r in reports if r.ended is not None and r.reason == "silent"]
        assert ended.kind is PathKind.PUNCHED
        assert ended.rtt_s == pytest.approx(0.04, abs=0.01)

    def test_who_only_answers_follows_his_peer_at_once(self):
        """The one who sent found the death out in 2 s; the other need not take 2 s more."""
        world = world_with_relay()
        world.run(0.2)
        punch(world)
        world.run(3)
        a, b = world.ends
        a.talk()
        world.run(2)
        world.dead |= direct_paths(world)
        assert world.run(5, lambda: a.path == RELAY)
        began = world.now
        assert world.run(5, lambda: b.path == RELAY)
        assert world.now - began < 0.8

    def test_an_idle_path_that_died_is_found_by_its_keepalive(self):
        world = world_with_relay()
        world.run(0.2)
        punch(world)
        world.run(3)
        world.dead |= direct_paths(world)
        assert world.run(25, lambda: all(end.path == RELAY for end in world.ends))

    def test_a_path_that_comes_back_is_not_trusted_at_once_and_later_it_is(self):
        world = direct_world()
        direct = direct_paths(world)
        for expected_s in (5.0, 10.0):
            world.dead |= direct
            world.run(4)
            left = world.now
            world.dead -= direct
            world.run(expected_s - 3.5)
            assert all(end.path == RELAY for end in world.ends)
            assert world.run(25, lambda: all(isinstance(end.path, tuple) for end in world.ends))
            assert world.now - left < expected_s + 18
            world.run(3)

    def test_one_way_loss_is_found_though_packets_arrive(self):
        world = direct_world()
        a = world.ends[0]
        send = world.send

        def deaf(sender: End, data: bytes, path: PathAddress) -> None:
            # What a sends directly is lost; b goes on sending directly, and is heard.
            if not (sender is a and isinstance(path, tuple)):
                send(sender, data, path)

        world.send = deaf  # type: ignore[method-assign]
        assert world.run(25, lambda: a.path == RELAY)

    def test_of_two_relays_the_one_that_answers_takes_over(self):
        world = world_with_relay("symmetric", "symmetric")
        for end in world.ends:
            end.add(RELAY_2, PathKind.RELAYED)
            end.talk()
        world.run(2)
        current = world.ends[0].path
        world.dead.add(current)
        assert world.run(5, lambda: all(end.path not in (None, current) for end in world.ends))

    def test_removed_path_is_left_at_once(self):
        world = direct_world()
        a = world.ends[0]
        a.manager.remove_path(a.path, "the interface is gone", world.now)
        a.pump()
        assert world.run(0.3, lambda: a.path == RELAY)


class TestDeath:
    def test_peer_is_dead_after_five_seconds_of_silence_on_all_paths(self):
        world = direct_world()
        a, b = world.ends
        b.sleep(1000)
        began = world.now
        assert world.run(8, lambda: bool(a.dead_reason))
        assert DEAD_AFTER_S - 0.5 <= world.now - began <= DEAD_AFTER_S + 0.6
        assert "5." in a.dead_reason or "4." in a.dead_reason

    def test_sign_of_life_by_signalling_defers_it_but_not_for_ever(self):
        world = direct_world()
        a, b = world.ends
        b.sleep(1000)
        began = world.now
        while world.now - began < SIGNAL_TRUST_MAX_S - 1:
            a.manager.on_signal_alive(world.now)
            world.run(1)
            assert not a.dead_reason
        assert "the only path is silent" in a.wanted
        for _ in range(4):
            a.manager.on_signal_alive(world.now)
            world.run(1)
        assert a.dead_reason

    def test_own_sleep_is_nobodys_silence(self):
        world = direct_world()
        a, b = world.ends
        before = a.path
        a.sleep(4)  # less than b's patience
        world.run(20)
        assert not a.dead_reason
        assert not b.dead_reason
        assert a.path == before

    def test_both_asleep_wake_up_friends(self):
        world = direct_world()
        for end in world.ends:
            end.sleep(60)
        world.run(90)
        assert not any(end.dead_reason for end in world.ends)
        assert all(isinstance(end.path, tuple) for end in world.ends)

    def test_manager_that_lost_its_only_path_gives_up(self):
        world = world_with_relay("symmetric", "symmetric")
        world.run(1)
        a = world.ends[0]
        a.manager.remove_path(RELAY, "the relay closed the circuit", world.now)
        a.pump()
        assert world.run(7, lambda: bool(a.dead_reason))


class TestMoving:
    @pytest.mark.parametrize("who", [0, 1])
    def test_reboot_of_a_nat_is_followed_within_a_round_trip(self, who: int):
        world = direct_world()
        mover, other = world.ends[who], world.ends[1 - who]
        for end in world.ends:
            end.nats[0].filtering = "open"
        mover.nats[0].ports = "remap"
        mover.nats[0].forget()
        before, began = other.path, world.now
        assert world.run(2, lambda: other.path not in (before, RELAY))
        assert world.now - began < 0.5
        world.run(1)
        assert mover.path not in (None, RELAY)

    def test_changed_network_is_checked_at_once_and_signalled(self):
        world = direct_world()
        a = world.ends[0]
        a.nats[0].ports = "remap"
        a.nats[0].forget()
        a.manager.network_changed(world.now)
        a.pump()
        assert "our network changed" in a.wanted
        assert world.run(1.3, lambda: a.path == RELAY)

    def test_a_while_on_relays_only_it_asks_to_punch_again_more_and_more_rarely(self):
        world = world_with_relay("symmetric", "symmetric")
        for end in world.ends:
            end.talk(1.0)
        world.run(100)
        assert 2 <= len(world.ends[0].wanted) <= 4
        world.run(1000)
        assert len(world.ends[0].wanted) <= 9


class TestHostile:
    def manager(self) -> PathManager:
        made = PathManager(LINK, KEY, is_initiator=True, random=lambda size: bytes(size))
        made.add_path(RELAY, PathKind.RELAYED, 0.0)
        return made

    def test_own_probe_thrown_back_proves_nothing(self):
        """Two homes may use the same private address: the probe then reaches ourselves."""
        mirror = ("192.168.1.2", 4001)
        manager = self.manager()
        manager.add_path(mirror, PathKind.LAN, 0.0)
        for step in range(100):
            now = step * 0.1
            for action in manager.poll(now):
                assert not isinstance(action, UsePath)
                if isinstance(action, SendProbe) and action.path == mirror:
                    assert manager.receive(action.datagram, mirror, now + 0.01) is None
        assert manager.current is None

    def test_answer_from_elsewhere_or_late_or_forged_proves_nothing(self):
        manager, here = self.manager(), ("203.0.113.9", 9)
        data = manager.make_probe(here, 0.0)
        probe = Probe.decode(data)
        genuine = Probed(LINK, probe.nonce, probe.size).encode(KEY)
        forged = Probed(LINK, probe.nonce, probe.size).encode(bytes(32))
        other_link = Probed(b"otherone", probe.nonce, probe.size).encode(KEY)
        for bad in (forged, other_link):
            assert manager.receive(bad, here, 0.1) is None
        assert manager.receive(genuine, ("203.0.113.10", 9), 0.1) is None
        assert manager.receive(genuine, here, 0.2) is None  # each nonce counts once

    def test_replayed_probes_add_no_path_and_sources_are_bounded(self):
        manager = self.manager()
        peer = PathManager(LINK, KEY, is_initiator=False, random=lambda size: bytes(size))
        captured = peer.make_probe(RELAY, 0.0)
        manager.receive(captured, RELAY, 0.0)
        for port in range(1, 100):
            manager.receive(captured, ("203.0.113.66", port), 0.1)
        assert len(manager.reports(0.2)) == 1
        for port in range(1, 100):
            manager.receive(peer.make_probe(RELAY, 0.0), ("203.0.113.66", port), 0.1)
        assert len(manager.reports(0.2)) <= PATHS_MAX

    def test_table_of_paths_is_bounded_and_relays_stay(self):
        manager = self.manager()
        for port in range(1, 100):
            manager.add_path(("203.0.113.66", port), PathKind.DIRECT, float(port) / 100)
        reports = manager.reports(1.0)
        assert len(reports) == PATHS_MAX
        assert reports[0].path.startswith("relay")

    @pytest.mark.parametrize("data", [b"\x09", b"\x0a" + bytes(80), b"\x09" + LINK + bytes(40)])
    def test_malformed_is_told_from_forged(self, data: bytes):
        with pytest.raises(RemoteProtocolError):
            self.manager().receive(data, RELAY, 0.0)

    def test_silent_address_is_dropped_with_its_reason(self):
        manager = self.manager()
        manager.add_path(("203.0.113.5", 5), PathKind.DIRECT, 0.0)
        for step in range(400):
            manager.poll(step * 0.1)
        (ended,) = [r for r in manager.reports(40.0) if r.ended is not None]
        assert (ended.reason, ended.status) == ("no answer", PathStatus.NEW)


PATHS = (("203.0.113.101", 4001), RELAY, RELAY_2, TunnelPath(5))


class AnyOrderOfDeaths(RuleBasedStateMachine):
    """One manager against an honest peer whose paths die and revive in any order.

    It never takes a path that does not answer while another is known to, and with any path alive
    for 5 s it is on a living one.
    """

    @initialize(delay_ms=st.sampled_from((1, 20, 150)))
    def begin(self, delay_ms: int) -> None:
        self.now = 50.0
        self.delay_s = delay_ms / 1000
        self.alive = dict.fromkeys(PATHS, True)
        self.changed_at = dict.fromkeys(PATHS, 0.0)
        self.answered_at = dict.fromkeys(PATHS, 0.0)
        self.arriving: list[tuple[float, PathAddress, bytes]] = []
        self.path: PathAddress | None = None
        self.is_dead = False
        self.manager = PathManager(LINK, KEY, is_initiator=True)
        self.peer = PathManager(LINK, KEY, is_initiator=False)
        for path in PATHS:
            kind = PathKind.DIRECT if isinstance(path, tuple) else PathKind.RELAYED
            self.manager.add_path(path, kind, self.now)
        self.go_on(1.0)

    @rule(path=st.sampled_from(PATHS))
    def flip(self, path: PathAddress) -> None:
        self.alive[path] = not self.alive[path]
        self.changed_at[path] = self.now
        if not self.alive[path]:
            self.arriving = [a for a in self.arriving if a[1] != path]

    @rule(seconds=st.sampled_from((0.1, 0.5, 1.0, 2.0, 6.0, 20.0)))
    @precondition(lambda self: not self.is_dead)
    def go_on(self, seconds: float) -> None:
        end = self.now + seconds
        next_send = self.now
        while self.now < end and not self.is_dead:
            self.act()
            wake = min(self.manager.next_timer(self.now), next_send, end)
            wake = min([wake, *(when for when, _, _ in self.arriving)])
            self.now = max(wake, self.now + 0.001)
            if self.now >= next_send and self.path is not None:
                next_send = self.now + 0.25
                self.manager.on_sent(self.now)
                if self.alive[self.path]:
                    self.arriving.append((self.now + 2 * self.delay_s, self.path, b""))
            due = [a for a in self.arriving if a[0] <= self.now]
            self.arriving = [a for a in self.arriving if a[0] > self.now]
            for _, path, data in due:
                if data:
                    self.answered_at[path] = self.now
                    self.manager.receive(data, path, self.now)
                else:
                    self.manager.on_heard(path, self.now)

    def act(self) -> None:
        for action in self.manager.poll(self.now):
            if isinstance(action, SendProbe) and self.alive[action.path]:
                self.peer.receive(action.datagram, action.path, self.now)
                for answer in self.peer.poll(self.now):
                    if isinstance(answer, SendProbe) and answer.datagram[0] == 0x0A:
                        arrival = self.now + 2 * self.delay_s
                        self.arriving.append((arrival, action.path, answer.datagram))
            elif isinstance(action, UsePath):
                self.check_choice(action.path)
                self.path = action.path
            elif not isinstance(action, SendProbe):
                self.is_dead = self.manager.is_dead

    def check_choice(self, path: PathAddress) -> None:
        # Known to live: answered within the last probe interval and a round trip.
        recent_s = 0.5 + 2 * self.delay_s
        known_alive = [p for p in PATHS if self.now - self.answered_at[p] <= recent_s]
        if known_alive:
            assert self.now - self.answered_at[path] <= 1.0 + 2 * self.delay_s, (path, known_alive)

    @invariant()
    def is_on_a_living_path(self) -> None:
        if not hasattr(self, "now") or self.is_dead:
            return
        steady = [p for p in PATHS if self.alive[p] and self.now - self.changed_at[p] >= 20.0]
        is_current_dead_long = (
            self.path is not None
            and not self.alive[self.path]
            and self.now - self.changed_at[self.path] >= 5.0
        )
        assert not (steady and is_current_dead_long)

    @invariant()
    def is_dead_only_when_all_paths_are(self) -> None:
        if getattr(self, "is_dead", False):
            assert not any(self.alive[p] and self.now - self.changed_at[p] >= 16.0 for p in PATHS)


TestAnyOrderOfDeaths = AnyOrderOfDeaths.TestCase
TestAnyOrderOfDeaths.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
