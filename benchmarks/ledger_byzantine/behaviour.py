"""The run by behaviour: in how many sessions each way to cheat was there, and what caught it.

E1  equivocation   a proof of two receipts was kept
E2  unsigned tail  the head signed no more for a hop that cheats; or an honest hop stopped work
                   for a payer that does, with something unsigned
E3  link mismatch  the pay of a hop was parked, because a neighbour contradicts it
E4  bad output     not played: nobody's output is judged here
E5  refusal        the marketplace refused a receipt and signed the reason
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field

from benchmarks.ledger_byzantine.hop import Hop
from benchmarks.ledger_byzantine.losses import PlayedSession, window_nanos
from benchmarks.ledger_byzantine.market import Market
from benchmarks.ledger_byzantine.people import PayerRole, ProviderRole
from protocol.money import Nanos

__all__ = ["CAUGHT_BY", "Behaviour", "Behaviours"]

CAUGHT_BY = ("E1", "E2", "E3", "E4", "E5")


@dataclass(slots=True)
class Behaviour:
    """One way to cheat, over all sessions in which somebody cheated so."""

    sessions: int = 0
    caught: Counter[str] = field(default_factory=Counter)
    """Sessions by what caught it; more than one may. `none`: nothing did, or nothing was done."""
    honest_loss_windows: float = 0.0
    """The most that an honest provider lost in one of them, in windows."""
    gain_nanos: Nanos = 0
    """A provider's: paid beyond what arrived, by honest payers. A payer's: arrived and unpaid."""
    gain_windows: float = 0.0
    """The most in one session, in windows of one hop."""
    collusion_nanos: Nanos = 0
    """A provider's, from payers that cheat too: nobody honest's money."""

    def add_gain(self, nanos: Nanos, window: Nanos) -> None:
        self.gain_nanos += max(nanos, 0)
        self.gain_windows = max(self.gain_windows, nanos / window)


@dataclass(slots=True)
class Behaviours:
    """Payers' and providers' ways, by name."""

    payers: dict[str, Behaviour] = field(default_factory=lambda: defaultdict(Behaviour))
    providers: dict[str, Behaviour] = field(default_factory=lambda: defaultdict(Behaviour))

    @classmethod
    def of(
        cls,
        played: Iterable[PlayedSession],
        market: Market,
        proven: Set[bytes],
        refused: Set[bytes],
    ) -> "Behaviours":
        """proven, refused: leases with a proof of equivocation, and with a refused receipt."""
        behaviours = cls()
        for session in played:
            evidence = _Evidence(session, market, proven, refused)
            behaviours._add_payer(evidence)
            behaviours._add_providers(evidence)
        return behaviours

    def _add_payer(self, evidence: "_Evidence") -> None:
        session = evidence.session
        if session.buyer.role is PayerRole.HONEST:
            return
        row = self.payers[session.buyer.role.value]
        everybody = {kind for hop in session.hops for kind in evidence.against_payer(hop)}
        _count(row, everybody, evidence.honest_loss_windows)
        unpaid = sum(
            max(evidence.due_nanos(hop) - evidence.market.credited[hop.lease.lease_id], 0)
            for hop in session.hops
        )
        row.add_gain(unpaid, window_nanos(session.hops[0].lease))

    def _add_providers(self, evidence: "_Evidence") -> None:
        session = evidence.session
        by_role: dict[str, list[Hop]] = defaultdict(list)
        for hop in session.hops:
            if not hop.provider.is_honest:
                by_role[hop.provider.role.value].append(hop)
        for role, hops in by_role.items():
            row = self.providers[role]
            caught = {kind for hop in hops for kind in evidence.against_provider(hop)}
            _count(row, caught, evidence.honest_loss_windows)
            for hop in hops:
                gain = evidence.market.credited[hop.lease.lease_id] - evidence.due_nanos(hop)
                if session.buyer.role is PayerRole.HONEST:
                    row.add_gain(gain, window_nanos(hop.lease))
                else:
                    row.collusion_nanos += max(gain, 0)


@dataclass(slots=True)
class _Evidence:
    """What is on record of one session."""

    session: PlayedSession
    market: Market
    proven: Set[bytes]
    refused: Set[bytes]

    def due_nanos(self, hop: Hop) -> Nanos:
        return self.session.head.due_nanos(hop.lease)

    @property
    def honest_loss_windows(self) -> float:
        losses = [
            (hop.carried_nanos - self.market.credited[hop.lease.lease_id]) / window_nanos(hop.lease)
            for hop in self.session.hops
            if hop.provider.is_honest
        ]
        return max(losses, default=0.0)

    def against_payer(self, hop: Hop) -> Iterator[str]:
        lease_id = hop.lease.lease_id
        if lease_id in self.proven:
            yield "E1"
        if hop.provider.is_honest and hop.carried_nanos > hop.signed_nanos:
            yield "E2"
        if lease_id in self.market.parked:
            yield "E3"

    def against_provider(self, hop: Hop) -> Iterator[str]:
        lease_id = hop.lease.lease_id
        withholds = hop.provider.role is ProviderRole.WITHHOLD
        is_unsigned = withholds and hop.carried_nanos > hop.signed_nanos
        if hop.lease.hop_index in self.session.head.left_out or is_unsigned:
            yield "E2"
        if lease_id in self.market.parked:
            yield "E3"
        if lease_id in self.refused:
            yield "E5"


def _count(row: Behaviour, caught: Set[str], loss_windows: float) -> None:
    row.sessions += 1
    row.caught.update(caught or {"none"})
    row.honest_loss_windows = max(row.honest_loss_windows, loss_windows)
