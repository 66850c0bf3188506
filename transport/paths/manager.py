"""The path manager of one link: probes the paths to a peer, chooses one, notices when it dies.

It begins on whatever answers first, mostly a relay, and moves to better paths as they are proved
(LAN > direct or punched > relayed UDP > tunnel). What moves it is authenticated: a PROBED with a
nonce just sent there, or QUIC packets that decrypted. A path that brings nothing for 1 s although
something was sent is doubted: it and all others are probed, and after 2 s the best one that answers
takes over; a peer of whom nothing is heard for 5 s is dead, unless signalling has heard of him.

Sans-IO: events in, `poll(now)` gives actions, `next_timer` says when to poll. Inside, times are
awake seconds (`awake_clock`): our own sleep is nobody's silence.
"""

import math
import os
from collections.abc import Callable

from protocol.datagram import PROBE_BYTES_MIN
from transport.base import PathKind
from transport.paths.actions import (
    Action,
    Answered,
    PathDoubted,
    PeerDead,
    SendProbe,
    UsePath,
    WantSignal,
)
from transport.paths.awake_clock import AwakeClock
from transport.paths.choice import PEER_MOVED, best_answering, first_path, upgrade
from transport.paths.path_address import PathAddress, address_kind
from transport.paths.path_set import PathSet
from transport.paths.probes import ProbeAnswered, ProbeBook, ProbeReceived
from transport.paths.signal_pacer import SignalPacer
from transport.paths.silence import MOVE_AFTER_S, SILENCE_S, SilenceWatch
from transport.paths.state import PathReport, PathState, PathStatus, Rank

__all__ = ["PathManager"]


class PathManager:
    """Owned by one link."""

    def __init__(
        self,
        link_id: bytes,
        key: bytes,
        *,
        is_initiator: bool,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._book = ProbeBook(link_id, key, is_initiator=is_initiator, random=random)
        self._clock = AwakeClock()
        self._paths = PathSet()
        self._signal = SignalPacer()
        self._actions: list[Action] = []
        self._current: PathState | None = None
        self._in_tunnel = False
        self._used_at = 0.0
        self._silence = SilenceWatch()
        self.found_kind = PathKind.PUNCHED
        """Of a path found outside the LAN; DIRECT if no NAT had to be opened for it."""
        self.is_dead = False

    @property
    def is_doubtful(self) -> bool:
        """The current path owes us a packet for too long, or there is none."""
        return self._silence.doubted_at is not None or self._current is None

    @property
    def current(self) -> PathState | None:
        return self._current

    def knows(self, path: PathAddress) -> bool:
        return self._paths.get(path) is not None

    # What happens

    def add_path(self, path: PathAddress, kind: PathKind, now: float) -> None:
        """A path to try. When the table is full and nothing in it can go, it is not tried."""
        self._paths.add(path, kind, self._clock.read(now))

    def remove_path(self, path: PathAddress, reason: str, now: float) -> None:
        """A path that is known to be gone: its tunnel closed, its circuit was taken away."""
        if (state := self._paths.get(path)) is None:
            return
        at = self._clock.read(now)
        self._paths.remove(state, self._report(state, reason, now))
        if state is self._current:
            self._current = None
            self._silence.on_demand(at)
            self._doubt(at)
            if not self._paths.has_live():
                self._ask("the only path is gone", at)

    def make_probe(self, path: PathAddress, now: float, size: int = PROBE_BYTES_MIN) -> bytes:
        """A PROBE for punching or path MTU: what it finds counts, its silence does not."""
        return self._book.make(path, self._clock.read(now), size)

    def receive(self, data: bytes, source: PathAddress, now: float) -> Answered | None:
        """Take a PROBE or PROBED; poll after it. Raises RemoteProtocolError if malformed."""
        at = self._clock.read(now)
        match self._book.read(data):
            case ProbeReceived(answer, is_repeated):
                self._actions.append(SendProbe(source, answer))
                if not is_repeated and (heard := self._on_authentic(source, at)) is not None:
                    heard.on_probe_heard(at)
            case ProbeAnswered(sent):
                self._on_authentic(source, at)
                if sent.path == source and (state := self._known(source, at)) is not None:
                    return self._on_answered(state, sent.size, at - sent.sent_at, at)
        return None

    def on_heard(self, path: PathAddress, now: float) -> None:
        """A new QUIC packet of the peer was decrypted."""
        at, current = self._clock.read(now), self._current
        state = self._on_authentic(path, at)
        if (
            state is not None
            and current is not None
            and state.rank.value >= current.rank.value
            and at - current.heard_at >= SILENCE_S
        ):
            self._silence.on_peer_elsewhere(at)

    def on_sent(self, now: float) -> None:
        """QUIC sent something by the current path."""
        self._silence.on_demand(self._clock.read(now))

    def on_signal_alive(self, now: float) -> None:
        """Signalling heard of the peer."""
        self._silence.on_signal_alive(self._clock.read(now))

    def network_changed(self, now: float) -> None:
        """Addresses or mappings of ours changed: what was proved may be void."""
        at = self._clock.read(now)
        self._silence.on_network_changed(at)
        self._signal.reset(at)
        self._ask("our network changed", at)
        self._doubt(at)

    # What to do

    def poll(self, now: float) -> list[Action]:
        at = self._clock.read(now)
        if not self.is_dead:
            for state in self._paths:
                state.settle(at)
                if reason := state.reason_to_drop(at):
                    self._drop(state, reason, now)
            self._judge(at, now)
            self._send_probes(at)
            if self._current is not None and self._signal.is_due(at):
                self._ask("only a relay reaches the peer", at)
        actions, self._actions = self._actions, []
        return actions

    def next_timer(self, now: float) -> float:
        """When to poll next if nothing happens before; infinite if there is nothing to do."""
        if self.is_dead:
            return math.inf
        at = self._clock.read(now)
        times = [state.next_probe_at for state in self._paths]
        if self._current is not None:
            times.append(self._signal.due_at)
        times += self._silence.marks(at)
        due = min(times, default=math.inf) + self._clock.slept_s
        self._clock.expect(due)
        return due

    def reports(self, now: float) -> tuple[PathReport, ...]:
        """Every path that ended, oldest first and the oldest forgotten; then the living ones."""
        living = (
            state.report(
                self._clock.slept_s,
                is_current=state is self._current,
                ended=None,
                reason="in use" if state is self._current else state.status.value,
            )
            for state in self._paths
        )
        return (*self._paths.ended, *living)

    # Evidence

    def _known(self, path: PathAddress, at: float) -> PathState | None:
        """Its state; a source not heard of before becomes a path to probe."""
        if (state := self._paths.get(path)) is not None:
            return state
        kind = address_kind(path)
        # Relays are told of, never found: their circuits have keys of their own.
        if kind is PathKind.RELAYED:
            return None
        if kind is PathKind.DIRECT:
            kind = self.found_kind
        return self._paths.add(path, kind, at, reflexive=True)

    def _on_authentic(self, source: PathAddress, at: float) -> PathState | None:
        if self.is_dead:
            return None
        self._silence.on_heard(at)
        if (state := self._known(source, at)) is None:
            return None
        state.on_heard(at)
        is_well = state.status is PathStatus.LIVE and not self._silence.needs_answer
        if state is self._current and is_well:
            self._silence.trust()
        return state

    def _on_answered(self, state: PathState, size: int, rtt_s: float, at: float) -> Answered:
        state.on_answered(at, rtt_s, is_urgent=self._silence.doubted_at is not None)
        if state is self._current:
            self._silence.trust()
        return Answered(state.path, state.kind, size, rtt_s)

    def _doubt(self, at: float) -> None:
        if self._silence.doubted_at is None:
            self._silence.doubted_at = at
            self._actions.append(PathDoubted())
            for state in self._paths:
                state.next_probe_at = min(state.next_probe_at, at)

    # Verdicts

    def _judge(self, at: float, now: float) -> None:
        current = self._current
        if current is None:
            if (best := first_path(self._paths, self._silence.doubted_at)) is not None:
                self._use(best, "the first path that works", at, now, is_forced=True)
            elif self._silence.demand_at is not None:
                self._judge_death(at)
            return
        owed_s = self._silence.owed_s(at)
        if owed_s >= SILENCE_S or current.status is PathStatus.SILENT:
            self._silence.on_demand(at)
            self._doubt(at)
            if not self._paths.has_live(beside=current):
                # Signalling takes longer than any path: begin while there is still hope.
                self._ask("the only path is doubtful", at)
            if owed_s >= MOVE_AFTER_S or current.status is PathStatus.SILENT:
                self._leave(current, at, now)
        elif (better := upgrade(current, self._paths, at, self._used_at)) is not None:
            state, reason = better
            self._use(state, reason, at, now, is_forced=reason == PEER_MOVED)

    def _leave(self, current: PathState, at: float, now: float) -> None:
        """The current path is silent: take another if one answers, else see whether he lives."""
        others = (state for state in self._paths if state is not current)
        if (best := best_answering(others, self._silence.doubted_at)) is None:
            self._ask("the only path is silent", at)
            self._judge_death(at)
            return
        current.failure_count += 1
        current.failed_at = at
        current.become_silent(at)
        self._use(best, "silent", at, now, is_forced=True)

    def _use(
        self, state: PathState, reason: str, at: float, now: float, *, is_forced: bool
    ) -> None:
        if (old := self._current) is not None:
            self._paths.record(self._report(old, reason, now))
        self._current, self._used_at = state, at
        self._in_tunnel = state.rank is Rank.TUNNEL
        self._silence.trust()
        is_same_line = reason == PEER_MOVED and old is not None and old.rank is state.rank
        self._actions.append(UsePath(state.path, state.kind, is_forced, is_same_line))
        if not state.is_relay:
            self._signal.stop()
        elif old is not None and not old.is_relay:
            self._signal.reset(at)
            self._ask("the direct path fell silent", at)
        else:
            self._signal.start(at)

    def _judge_death(self, at: float) -> None:
        if reason := self._silence.death(at, any(self._paths), in_tunnel=self._in_tunnel):
            self.is_dead = True
            self._actions.append(PeerDead(reason))

    def _send_probes(self, at: float) -> None:
        for state in self._paths:
            if self.is_dead or at < state.next_probe_at:
                continue
            state.on_probed(at, is_urgent=self._silence.doubted_at is not None)
            self._silence.unanswered_count += 1
            if state is self._current:
                self._silence.on_demand(at)
            self._actions.append(SendProbe(state.path, self._book.make(state.path, at)))

    def _ask(self, reason: str, at: float) -> None:
        if self._signal.may_ask(at):
            self._actions.append(WantSignal(reason))

    def _drop(self, state: PathState, reason: str, now: float) -> None:
        if state is not self._current:
            self._paths.remove(state, self._report(state, reason, now))

    def _report(self, state: PathState, reason: str, now: float) -> PathReport:
        is_current = state is self._current
        return state.report(self._clock.slept_s, is_current=is_current, ended=now, reason=reason)
