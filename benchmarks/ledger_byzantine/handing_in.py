"""How a provider hands its receipts in, over a network that loses them."""

from collections.abc import Callable, Sequence

from benchmarks.ledger_byzantine.market import BEGIN_S, Market
from benchmarks.ledger_byzantine.network import Loop, post
from benchmarks.ledger_byzantine.people import Provider, ProviderRole
from ledger.receipts import ReceiptOutcome, ReceiptStatus
from protocol.lease import Lease

__all__ = ["HandingIn"]

PERIOD_S = 5.0
BATCH_MAX = 256
LATE_S = 1.0
"""After a lease's time for receipts."""


class HandingIn:
    """The newest receipt of each lease until it is acknowledged; a cheat hands in more, or late."""

    def __init__(self, loop: Loop, provider: Provider, market: Market) -> None:
        self.provider = provider
        self.refused: set[bytes] = set()
        """Leases of which the marketplace refused a receipt, and said why."""
        self._loop = loop
        self._market = market
        self._newest: dict[bytes, bytes] = {}
        self._all: list[bytes] = []
        self._is_due = False

    def collect(self, lease: Lease, cosigned: bytes) -> None:
        self._newest[lease.lease_id] = cosigned
        match self.provider.role:
            case ProviderRole.BACKDATE:
                wait_s = lease.settle_by_s - BEGIN_S - self._loop.now + LATE_S
                self._loop.after(wait_s, self._send, [cosigned])
            case ProviderRole.REPLAY:
                self._all.append(cosigned)
                self._wake(PERIOD_S)
            case _:
                self._wake(PERIOD_S)

    def _wake(self, delay_s: float) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.after(delay_s, self._turn)

    def _turn(self) -> None:
        self._is_due = False
        if self._all:
            # everything ever signed, the newest first, and all of it twice
            batch = (self._all[::-1] * 2)[:BATCH_MAX]
            self._all = self._all[-20:] if self._loop.random.random() < 0.5 else []
            self._send(batch)
            return
        if batch := list(self._newest.values())[:BATCH_MAX]:
            self._send(batch)

    def _send(self, batch: Sequence[bytes]) -> None:
        post(self._loop, self._server(batch), self._answered(batch), lambda: self._retry(batch))

    def _server(self, batch: Sequence[bytes]) -> Callable[[], list[ReceiptOutcome]]:
        def serve() -> list[ReceiptOutcome]:
            now_s = BEGIN_S + int(self._loop.now)
            return self._market.hand_in(self.provider.key.peer_id, batch, now_s)

        return serve

    def _answered(self, batch: Sequence[bytes]) -> Callable[[list[ReceiptOutcome]], None]:
        def answered(outcomes: list[ReceiptOutcome]) -> None:
            for cosigned, outcome in zip(batch, outcomes, strict=True):
                if outcome.status is ReceiptStatus.REJECTED:
                    self.refused.add(outcome.lease_id)
                if self._newest.get(outcome.lease_id) == cosigned:
                    del self._newest[outcome.lease_id]
            if self._newest and self.provider.role is not ProviderRole.BACKDATE:
                self._wake(PERIOD_S)

        return answered

    def _retry(self, batch: Sequence[bytes]) -> None:
        if self.provider.role is ProviderRole.BACKDATE:
            self._send(batch)
        else:
            self._wake(0.0)
