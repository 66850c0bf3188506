"""Hole punching of one link: where to send probes when, so that both NATs let the other's in.

Both sides begin at one moment (SYNC) and probe every candidate of the other every 40 ms for 3 s,
from the data socket. Each probe opens the own NAT towards its target; the first that arrives is
answered to where it came from, so a symmetric side is found by the other without knowing its port.
Only a symmetric NAT facing one that filters by port cannot meet so: the new mapping's port is known
to nobody. Then the easy side sprays probes over the ports that are likely: the observed port plus
multiples of the observed step, and those around it, as some NATs take ports from a narrow pool.
A port drawn from all 64 512 is hit by 256 probes once in 250 times: such pairs keep their relay.

Sans-IO: `poll(now)` gives addresses, the path manager makes the probes; a stranger's candidates are
bounded and checked. After two rounds the outcome and its reason stand.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import count
from typing import Final

from protocol.reach import (
    CANDIDATES_MAX,
    Candidate,
    CandidateKind,
    Filtering,
    Mapping,
    NATHints,
)
from transport.base import PathKind
from transport.interfaces import path_kind_of

__all__ = ["PREDICTED_PORTS_MAX", "Punch", "PunchOutcome"]

Target = tuple[str, int]

INTERVAL_S: Final = 0.04
ROUND_S: Final = 3.0
"""As measured: 1.6 round trips are enough where theory allows; the rest is for lost probes."""

ROUND_COUNT: Final = 2
PAUSE_S: Final = 1.0
"""Between rounds: a NAT that took the first for an attack has calmed down."""

GRACE_S: Final = 0.5
"""After the first success LAN addresses are still tried so long: they may be better."""

HAIRPIN_DELAY_S: Final = 0.3
"""Behind one NAT the public address is tried after the LAN ones: it may lead by the router."""

FOREIGN_LAN_ROUNDS: Final = 25
"""LAN addresses of another site are tried 1 s only (a VPN may join the sites)."""

PER_HOST_MAX: Final = 3
"""Ports of one host among them: observed, mapped, and one more; the rest would be a flood at it."""

PREDICTED_PORTS_MAX: Final = 256
PREDICTED_PER_TICK: Final = 8
"""The spray, once a round: 200 probes a second, so the pool of 64 ports is covered in 0.6 s."""


class PunchOutcome(Enum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Punch:
    """One attempt. `start_at` is the moment agreed on; before it nothing is sent."""

    def __init__(
        self,
        own: Sequence[Candidate],
        peer: Sequence[Candidate],
        own_hints: NATHints,
        peer_hints: NATHints,
        start_at: float,
    ) -> None:
        self.outcome = PunchOutcome.RUNNING
        self.reason = "under way"
        self._hints = own_hints, peer_hints
        self._start_at = self._next_at = start_at
        self._round = self._tick = 0
        self._won_at = math.inf
        has_loopback = any(c.is_loopback for c in own)
        usable = _bounded(c for c in peer if has_loopback or not c.is_loopback)
        # Each address once: sixteen times the same would be sixteen times the probes for it.
        lan = [(c.host, c.port) for c in usable if c.kind is CandidateKind.LAN]
        outside = [c for c in usable if c.kind is not CandidateKind.LAN]
        self._lan = list(dict.fromkeys(lan))
        self._outside = list(dict.fromkeys((c.host, c.port) for c in outside))
        own_hosts = {c.host for c in own if c.kind is CandidateKind.OBSERVED}
        self._is_same_site = any(c.host in own_hosts for c in outside)
        observed = [(c.host, c.port) for c in outside if c.kind is CandidateKind.OBSERVED]
        self._observed = list(dict.fromkeys(observed))
        self._predicted: Iterator[Target] = iter(())
        if not self._lan and not self._outside:
            self._fail("the peer named no address that could be tried")

    @property
    def is_over(self) -> bool:
        """Nothing more will be sent."""
        return self._next_at == math.inf

    def poll(self, now: float) -> list[Target]:
        """Where to send a probe now."""
        if now < self._next_at:
            return []
        if now >= self._won_at + GRACE_S:
            self._next_at = math.inf
            return []
        if now >= self._round_start + ROUND_S:
            self._end_round(now)
            return []
        if self._tick == 0:
            self._predicted = self._predict()
        targets = self._targets(now)
        self._tick += 1
        self._next_at = max(self._next_at + INTERVAL_S, now + INTERVAL_S / 2)
        return targets

    def next_timer(self) -> float:
        """Infinite when it is over."""
        return self._next_at

    def on_proved(self, kind: PathKind, path: str, now: float) -> None:
        """A direct path answered; LAN is as good as it gets."""
        if self.outcome is not PunchOutcome.SUCCEEDED:
            self._won_at = now
            after_s = now - self._start_at
            self.reason = f"{path} answered after {after_s:.2f} s, round {self._round + 1}"
        self.outcome = PunchOutcome.SUCCEEDED
        if kind is PathKind.LAN or not self._lan:
            self._next_at = math.inf

    @property
    def _round_start(self) -> float:
        return self._start_at + self._round * (ROUND_S + PAUSE_S)

    def _targets(self, now: float) -> list[Target]:
        lan = self._lan if self._is_same_site or self._tick < FOREIGN_LAN_ROUNDS else []
        if self.outcome is PunchOutcome.SUCCEEDED:
            return list(lan)
        if self._is_same_site and now < self._round_start + HAIRPIN_DELAY_S:
            return list(lan)
        targets = [*lan, *self._outside]
        targets += (t for _, t in zip(range(PREDICTED_PER_TICK), self._predicted, strict=False))
        return targets

    def _end_round(self, now: float) -> None:
        if self._round + 1 < ROUND_COUNT:
            self._round += 1
            self._tick = 0
            self._next_at = max(now, self._round_start)
        else:
            tried = len(self._lan) + len(self._outside)
            self._fail(f"no answer from {tried} addresses in {ROUND_COUNT} rounds{self._why()}")

    def _fail(self, reason: str) -> None:
        if self.outcome is PunchOutcome.RUNNING:
            self.outcome, self.reason = PunchOutcome.FAILED, reason
        self._next_at = math.inf

    def _why(self) -> str:
        own, peer = self._hints
        if Mapping.BLOCKED in (own.mapping, peer.mapping):
            return "; one side's UDP is blocked"
        if own.is_symmetric and peer.is_symmetric:
            return "; both NATs are symmetric"
        if own.is_symmetric or peer.is_symmetric:
            return "; one NAT is symmetric and its port was not guessed"
        return ""

    def _predict(self) -> Iterator[Target]:
        """Likely ports of the peer's mapping towards us, likeliest first; the easy side's task."""
        own, peer = self._hints
        if not peer.is_symmetric or own.is_symmetric or own.filtering is Filtering.OPEN:
            return
        sent = 0
        for host, port in self._observed:
            if path_kind_of(host) is PathKind.LAN and not self._is_same_site:
                continue
            known = peer.ports or (port,)
            for guess in _likely_ports(known, peer.port_delta, skip=self._round):
                if sent >= PREDICTED_PORTS_MAX:
                    return
                sent += 1
                yield host, guess


def _bounded(candidates: Iterable[Candidate]) -> list[Candidate]:
    """At most so many, and so few of one host: the peer names them, and we send to them."""
    per_host: Counter[str] = Counter()
    kept: list[Candidate] = []
    for candidate in dict.fromkeys(candidates):
        per_host[candidate.host] += 1
        if per_host[candidate.host] <= PER_HOST_MAX and len(kept) < CANDIDATES_MAX:
            kept.append(candidate)
    return kept


def _likely_ports(observed: Sequence[int], delta: int | None, *, skip: int) -> Iterator[int]:
    """Ports that the next mapping may get. `skip` moves on: other mappings were made meanwhile."""
    last, seen = observed[-1], set[int]()

    def fresh(port: int) -> Iterator[int]:
        if 1024 <= port < 65536 and port not in seen:
            seen.add(port)
            yield port

    if delta is not None:
        for step in range(1, 1 + PREDICTED_PORTS_MAX // 4):
            yield from fresh(last + delta * (step + skip * (PREDICTED_PORTS_MAX // 4)))
    middle = (min(observed) + max(observed)) // 2
    for distance in count():
        if middle - distance < 1024 and middle + distance >= 65536:
            return
        yield from fresh(middle + distance)
        yield from fresh(middle - distance)
