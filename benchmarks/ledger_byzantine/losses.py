"""What each honest party lost, against the bound that the protocol states."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.ledger_byzantine.head import Head
from benchmarks.ledger_byzantine.hop import Hop
from benchmarks.ledger_byzantine.market import Market
from benchmarks.ledger_byzantine.people import Buyer, PayerRole, ProviderRole
from protocol.lease import Lease
from protocol.money import Nanos, Work, amount_nanos, with_fee_nanos

__all__ = ["Losses", "PlayedSession", "Worst", "window_nanos"]

STEP_TOKENS_MAX = 16
"""The largest step of the simulation: a chunk of a prompt."""


@dataclass(frozen=True, slots=True)
class PlayedSession:
    """Who took part in one session."""

    buyer: Buyer
    head: Head
    hops: Sequence[Hop]


@dataclass(slots=True)
class Worst:
    """Losses of one kind of party. Nanos; ratios to each one's own bound."""

    count: int = 0
    losers: int = 0
    loss_nanos: Nanos = 0
    worst_nanos: Nanos = 0
    worst_bound_nanos: Nanos = 0
    """Of the one whose loss came nearest to its bound."""
    worst_ratio: float = 0.0
    worst_windows: float = 0.0
    beyond: int = 0
    """How many lost more than their bound."""

    def add(self, loss: Nanos, bound: Nanos, window: Nanos) -> None:
        self.count += 1
        self.losers += loss > 0
        self.loss_nanos += max(loss, 0)
        self.worst_nanos = max(self.worst_nanos, loss)
        self.beyond += loss > bound
        if bound and loss / bound >= self.worst_ratio:
            self.worst_ratio, self.worst_bound_nanos = loss / bound, bound
        self.worst_windows = max(self.worst_windows, loss / window)


@dataclass(slots=True)
class Losses:
    """By what was done to them: the payer's way for providers, and how a cheat gained."""

    providers: dict[str, Worst] = field(default_factory=lambda: defaultdict(Worst))
    """Honest ones, by the payer's role."""
    buyers: Worst = field(default_factory=Worst)
    """Honest payers: charged beyond what arrived."""
    cheats: dict[str, Worst] = field(default_factory=lambda: defaultdict(Worst))
    """Providers that cheat honest payers, by role: `loss` is what they got beyond what arrived."""
    parked_honest_nanos: Nanos = 0
    """Of honest providers, parked until the ruling; returned to the buyer: `taken`."""
    taken_honest_nanos: Nanos = 0

    left_out_honest: int = 0
    """Honest hops behind one that lied of its link, which an honest head left out in its place."""

    @classmethod
    def of(cls, played: Iterable[PlayedSession], market: Market) -> "Losses":
        losses = cls()
        for session in played:
            losses._add(session, market)
        return losses

    def _add(self, session: PlayedSession, market: Market) -> None:
        honest_payer = session.buyer.role is PayerRole.HONEST
        for before, hop in zip((None, *session.hops), session.hops, strict=False):
            lease_id = hop.lease.lease_id
            got = market.credited[lease_id]
            window = window_nanos(hop.lease)
            if hop.provider.is_honest:
                bound = _price(hop.lease, hop.lease.credit_tokens + STEP_TOKENS_MAX - 1)
                role = session.buyer.role.value
                self.providers[role].add(hop.carried_nanos - got, bound, window)
                self.parked_honest_nanos += market.parked.get(lease_id, 0)
                self.taken_honest_nanos += market.returned[lease_id]
                if honest_payer and before and before.provider.role is ProviderRole.LIE:
                    self.left_out_honest += hop.lease.hop_index in session.head.left_out
            elif honest_payer:
                gain = got - session.head.due_nanos(hop.lease)
                self.cheats[hop.provider.role.value].add(gain, 0, window)
        if honest_payer:
            self._add_buyer(session, market)

    def _add_buyer(self, session: PlayedSession, market: Market) -> None:
        leases = [hop.lease for hop in session.hops]
        fee = leases[0].fee_basis_points
        due = with_fee_nanos(sum(session.head.due_nanos(lease) for lease in leases), fee)
        charged = market.charged.get(leases[0].hold_id, 0)
        returned = sum(market.returned[lease.lease_id] for lease in leases)
        window = sum(window_nanos(lease) for lease in leases)
        self.buyers.add(charged - returned - due, with_fee_nanos(window, fee), window)


def window_nanos(lease: Lease) -> Nanos:
    """The price of one window at a hop."""
    return _price(lease, lease.window_tokens)


def _price(lease: Lease, tokens: int) -> Nanos:
    """What `tokens` of the dearest kind are worth at a hop, and a nano for rounding."""
    layers = tokens * len(lease.span)
    size = tokens * lease.wire_dtype.row_bytes(lease.hidden_size)
    works = (Work(layers, 0, size, size), Work(0, layers, size, size))
    return max(amount_nanos(work, lease.rates) for work in works) + 1
