"""What a quote promises, as one record that is kept until it is accepted, and by its session."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from marketplace.pricing import WorkPlan, bound_of
from protocol.identity import PeerId
from protocol.money import Nanos, Rates, Work, amount_nanos, with_fee_nanos, work_bound
from protocol.offer import Offer
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from protocol.route import Span
from protocol.tensor import WireDtype

__all__ = ["QuoteTerms", "QuotedHop", "hold_nanos", "more_work"]

TERMS_BYTES_MAX = 1024 * 1024
"""64 hops with 16 addresses of 256 bytes each are 300 kB; above that the row is damaged."""

HOLD_NANOS_MIN = 1
"""A hold is a movement of money, so even a free route sets one nano aside."""


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

    @classmethod
    def of(cls, offer: Offer, span: Span, plan: WorkPlan) -> "QuotedHop":
        """`span` of the offer for all the work of `plan`."""
        work_max = bound_of(span, plan)
        return cls(
            provider=offer.provider,
            span=span,
            addresses=offer.addresses,
            backend=offer.backend,
            compute_dtype=offer.compute_dtype,
            rates=offer.rates,
            work_max=work_max,
            amount_nanos_max=amount_nanos(work_max, offer.rates),
        )


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
    drafted_tokens: int = 0
    funded_tokens: int | None = None
    """Of the answer: what is held for; None: all of it."""

    @property
    def funded_rows(self) -> int:
        """Rows of the session, drafts apart, that the leases pay for."""
        if self.funded_tokens is None:
            return self.tokens_max
        return self.prompt_tokens + self.funded_tokens

    def headroom_nanos(self, hops: Sequence[QuotedHop]) -> Nanos:
        """What these hops may earn, with the fee, beyond what is held for them at first."""
        rows = self.tokens_max - self.funded_rows
        if rows == 0:
            return 0
        row_bytes = self.wire_dtype.row_bytes(self.hidden_size)
        whole = sum(
            amount_nanos(hop.work_max + more_work(hop.span, rows, row_bytes), hop.rates)
            for hop in hops
        )
        return with_fee_nanos(whole, self.fee_basis_points) - hold_nanos(
            hops, self.fee_basis_points
        )

    @property
    def tokens_max(self) -> int:
        """Rows the session holds at each hop in the end."""
        return self.prompt_tokens + self.max_tokens

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    @classmethod
    def decode(cls, data: bytes) -> "QuoteTerms":
        return decode_fields(cls, decode_canonical(data, size_max=TERMS_BYTES_MAX))


def more_work(span: Span, rows: int, row_bytes: int) -> Work:
    """What so many rows of an answer are at the hop of `span`."""
    return work_bound(
        layers=len(span), prompt_tokens=0, output_tokens=rows, bytes_per_token=row_bytes
    )


def hold_nanos(hops: Iterable[QuotedHop], fee_basis_points: int) -> Nanos:
    """What is set aside for these hops: the most they can earn, and the fee."""
    earned = sum(hop.amount_nanos_max for hop in hops)
    return max(with_fee_nanos(earned, fee_basis_points), HOLD_NANOS_MIN)
