"""What a quote promises, as one record that is kept until it is accepted."""

from dataclasses import dataclass

from protocol.identity import PeerId
from protocol.money import Nanos, Rates, Work
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from protocol.route import Span
from protocol.tensor import WireDtype

__all__ = ["QuoteTerms", "QuotedHop"]

TERMS_BYTES_MAX = 1024 * 1024
"""64 hops with 16 addresses of 256 bytes each are 300 kB; above that the row is damaged."""


@dataclass(frozen=True, slots=True)
class QuotedHop:
    """One hop as its provider offered it when the quote was made."""

    provider: PeerId
    span: Span
    addresses: tuple[str, ...]
    backend: str
    compute_dtype: str
    rates: Rates
    work_max: Work
    amount_nanos_max: Nanos


@dataclass(frozen=True, slots=True)
class QuoteTerms:
    """A route and the most that it will cost."""

    model: str
    manifest_hash: bytes
    layers: int
    hidden_size: int
    prompt_tokens: int
    max_tokens: int
    wire_dtype: WireDtype
    fee_basis_points: int
    amount_nanos_max: Nanos
    """What is held: every hop's bound and the fee."""
    hops: tuple[QuotedHop, ...]

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    @classmethod
    def decode(cls, data: bytes) -> "QuoteTerms":
        return decode_fields(cls, decode_canonical(data, size_max=TERMS_BYTES_MAX))
