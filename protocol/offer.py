"""Offer: a provider serves this span at these rates until then."""

from dataclasses import dataclass
from typing import ClassVar

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.money import Rates
from protocol.route import Span

__all__ = ["OFFER_LIFETIME_MAX_S", "Offer"]

OFFER_LIFETIME_MAX_S = 300
"""An offer is renewed by heartbeat; one that promises longer is refused, for it may be dead."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Signed by the provider's node key. The newest `sequence` replaces all older ones."""

    DOMAIN: ClassVar[str] = "piecework/offer/v1"

    provider: PeerId
    sequence: int
    addresses: tuple[str, ...]
    model: str
    manifest_hash: bytes
    span: Span
    backend: str
    compute_dtype: str
    rates: Rates
    sessions_max: int
    kv_tokens: int
    issued_at_s: int
    expires_at_s: int

    def __post_init__(self) -> None:
        if len(self.span) == 0:
            raise RemoteProtocolError("An offer serves at least one layer.")
        if not 0 < self.expires_at_s - self.issued_at_s <= OFFER_LIFETIME_MAX_S:
            raise RemoteProtocolError(f"An offer lives at most {OFFER_LIFETIME_MAX_S} s.")
        if self.sessions_max <= 0 or self.kv_tokens <= 0 or self.sequence < 0:
            raise RemoteProtocolError("An offer's limits are positive.")
        if not 0 < len(self.addresses) <= 16:
            raise RemoteProtocolError("An offer names between 1 and 16 addresses.")
