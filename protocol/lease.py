"""Lease: this payer key may use this hop up to this limit until then.

Signed by the marketplace, verified offline by the hop. It names the head and both neighbours, so a
lease is worthless at any other hop, for any other session, or on any other route. It does not name
the buyer: the marketplace alone knows whose hold stands behind it.
"""

from dataclasses import dataclass, fields
from typing import ClassVar

from protocol.errors import LimitExceeded, RemoteProtocolError
from protocol.identity import PUBLIC_KEY_BYTES, PeerId
from protocol.limits import HOPS_MAX
from protocol.money import BASIS_POINTS, Nanos, Rates, Work, amount_nanos
from protocol.route import Span
from protocol.tensor import WireDtype

__all__ = ["ID_BYTES", "Lease"]

ID_BYTES = 16
"""Lease, session and hold ids: 128 bits, chosen by the sender."""
_MAY_GROW = frozenset(("work_max", "amount_nanos_max", "settle_by_s"))
"""What an extension raises; all else of a lease stands as it was signed first."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One hop of one paid session. All times are unix seconds of the marketplace's clock."""

    DOMAIN: ClassVar[str] = "piecework/lease/v1"

    lease_id: bytes
    session_id: bytes
    hold_id: bytes
    hop_index: int
    hop_count: int
    payer_key: bytes
    """Ed25519 key, made for one session, that signs its receipts."""
    provider: PeerId
    head: PeerId
    previous: PeerId
    """The peer that sends to this hop; the head at hop 0."""
    next: PeerId
    """The peer this hop sends to; the head at the last hop."""
    manifest_hash: bytes
    span: Span
    hidden_size: int
    wire_dtype: WireDtype
    rates: Rates
    work_max: Work
    amount_nanos_max: Nanos
    tokens_max: int
    """Rows the session may hold at this hop; what KV is reserved for."""
    window_tokens: int
    """A receipt is due whenever this many tokens have passed since the last."""
    credit_windows: int
    """Windows the hop may work ahead of the last receipt."""
    fee_basis_points: int
    issued_at_s: int
    expires_at_s: int
    """The session must have been opened by then."""
    settle_by_s: int
    """Receipts are taken until then; what is not claimed goes back to the buyer."""

    def __post_init__(self) -> None:
        if any(len(i) != ID_BYTES for i in (self.lease_id, self.session_id, self.hold_id)):
            raise RemoteProtocolError("Ids have 16 bytes.")
        if len(self.payer_key) != PUBLIC_KEY_BYTES:
            raise RemoteProtocolError("A payer key has 32 bytes.")
        if not 0 <= self.hop_index < self.hop_count <= HOPS_MAX:
            raise RemoteProtocolError("The lease's hop is not on its route.")
        if self.window_tokens <= 0 or self.credit_windows <= 0 or self.tokens_max <= 0:
            raise RemoteProtocolError("A lease's windows and tokens are positive.")
        if not 0 <= self.fee_basis_points <= BASIS_POINTS or self.amount_nanos_max < 0:
            raise RemoteProtocolError("The lease's fee or amount is out of range.")
        if not self.issued_at_s < self.expires_at_s <= self.settle_by_s:
            raise RemoteProtocolError("The lease's times are out of order.")

    @property
    def credit_tokens(self) -> int:
        """Tokens the hop may carry beyond its last receipt."""
        return self.window_tokens * self.credit_windows

    def check_grows_from(self, earlier: "Lease") -> None:
        """Raise RemoteProtocolError unless this is `earlier` with higher limits and no other word.

        Equal limits are no error: an extension may come twice.
        """
        for field in fields(self):
            if field.name in _MAY_GROW:
                continue
            if getattr(self, field.name) != getattr(earlier, field.name):
                raise RemoteProtocolError(f"An extension cannot change a lease's {field.name}.")
        if (
            not self.work_max.covers(earlier.work_max)
            or self.amount_nanos_max < earlier.amount_nanos_max
            or self.settle_by_s < earlier.settle_by_s
        ):
            raise RemoteProtocolError("An extension cannot lower a lease's limits.")

    def amount_for(self, work: Work) -> Nanos:
        """What cumulative `work` is worth; raises LimitExceeded above the lease's limits."""
        if not self.work_max.covers(work):
            raise LimitExceeded("More work than the lease allows.")
        amount = amount_nanos(work, self.rates)
        if amount > self.amount_nanos_max:
            raise LimitExceeded(f"{amount} nanos are above the lease's {self.amount_nanos_max}.")
        return amount
