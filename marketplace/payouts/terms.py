"""When earnings become payable, and what is held back: pure, with every number and its reason.

A day's earnings of one machine leave PROVIDER_EARNED together, once they are as old as the
provider's tier asks. Part of them may stay held: a reserve against proven faults, and what came
from buyers whose payments can still be taken back.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from marketplace.standing.tiers import CHARGEBACK_WINDOW_S, DAY_S, Tier
from protocol.money import BASIS_POINTS, Nanos

__all__ = [
    "NEVER_S",
    "RULING_WINDOW_S",
    "HeldPart",
    "HeldReason",
    "Release",
    "Revenue",
    "delay_s",
    "reserve_basis_points",
    "split",
]

NEVER_S = 2**53
"""`until` of what only an operator gives back: later than any clock, and exact in every JSON."""

_DELAY_S: Mapping[Tier, int] = {Tier.NEW: 14 * DAY_S, Tier.GROWING: 7 * DAY_S, Tier.TRUSTED: DAY_S}
"""A new account waits as long as most card owners need to see a payment that they did not make."""

_EXPOSURE_S: Mapping[Tier, int] = {Tier.NEW: 30 * DAY_S, Tier.GROWING: 14 * DAY_S, Tier.TRUSTED: 0}
"""How long what a buyer of this tier paid may come back: for a new one, a card's whole month."""

_MONTH_S = 30 * DAY_S
_RESERVE: Sequence[tuple[int, int]] = (
    (3 * _MONTH_S, 3000),
    (6 * _MONTH_S, 2000),
    (9 * _MONTH_S, 1000),
)
"""(served less than, basis points held): 30, 20, 10 and then 0 percent."""

RESERVE_KEPT_S = 6 * _MONTH_S
"""Longer than any dispute runs: a fault proven meanwhile is paid from the reserve."""

RULING_WINDOW_S = 30 * DAY_S
"""After the last work of a machine that leaves: 14 days to appeal, and as long to rule."""

BUYER_SHARE_BASIS_POINTS = 5000
"""Of a machine's day, what one unverified buyer may have paid before the rest of it is held."""

SHARE_CAP_FROM_NANOS = 1_000_000_000
"""Below a dollar a day one buyer is often the only one, and there is nothing to cash out."""


class HeldReason(StrEnum):
    """Why a part is held."""

    RESERVE = "reserve"
    """By months served; back after RESERVE_KEPT_S."""
    NEW_BUYER = "new_buyer"
    """The buyer's payment may still come back."""
    BUYER_SHARE = "buyer_share"
    """One unverified buyer paid most of it; back when its money is beyond chargeback."""
    LINKED_BUYER = "linked_buyer"
    """The buyer shares a card, a bank or an address with the provider; an operator rules."""


@dataclass(frozen=True, slots=True)
class Revenue:
    """What one buyer paid a machine in one period. `buyer` is "" for a ruling's money."""

    buyer: str
    amount_nanos: Nanos
    tier: Tier = Tier.TRUSTED
    verified: bool = True


@dataclass(frozen=True, slots=True)
class HeldPart:
    """What stays held, why, and until when (NEVER_S: an operator's decision)."""

    reason: HeldReason
    amount_nanos: Nanos
    until_s: int
    buyer: str = ""
    """Of a linked buyer's part."""


@dataclass(frozen=True, slots=True)
class Release:
    """How a period's earnings are divided; payable + Σ held is the amount."""

    amount_nanos: Nanos
    payable_nanos: Nanos
    held: tuple[HeldPart, ...]


def delay_s(tier: Tier) -> int:
    """How old a provider's earnings must be, by its tier."""
    return _DELAY_S[tier]


def reserve_basis_points(served_s: int) -> int:
    """The share that is held of what an account earns after so long a service."""
    return next((share for below_s, share in _RESERVE if served_s < below_s), 0)


def split(
    revenues: Sequence[Revenue],
    *,
    linked: Collection[str],
    served_s: int,
    period_end_s: int,
    now_s: int,
    amount_nanos: Nanos | None = None,
) -> Release:
    """Divide one period of one machine. Σ of its parts is `amount_nanos`, by default Σ revenues.

    Less than Σ revenues may be there where a ruling took some: what is missing is taken from what
    would be payable first, so that what is held against a later fault stays whole.
    """
    total = sum(revenue.amount_nanos for revenue in revenues)
    available = total if amount_nanos is None else min(total, amount_nanos)
    held = [
        part
        for part in (
            *_linked_parts(revenues, linked),
            *_exposed_parts(revenues, linked, total, period_end_s),
            _reserve_part(revenues, linked, served_s, period_end_s),
        )
        if part.amount_nanos and part.until_s > now_s
    ]
    return _fit(held, total, available)


def _linked_parts(revenues: Sequence[Revenue], linked: Collection[str]) -> list[HeldPart]:
    return [
        HeldPart(HeldReason.LINKED_BUYER, revenue.amount_nanos, NEVER_S, revenue.buyer)
        for revenue in revenues
        if revenue.buyer in linked
    ]


def _exposed_parts(
    revenues: Sequence[Revenue], linked: Collection[str], total: Nanos, period_end_s: int
) -> tuple[HeldPart, HeldPart]:
    """What one buyer paid above its share, and of the rest what a young buyer paid."""
    share_cap = total * BUYER_SHARE_BASIS_POINTS // BASIS_POINTS
    above, young, young_until_s = 0, 0, 0
    for revenue in revenues:
        if revenue.buyer in linked:
            continue
        over = 0
        if not revenue.verified and total >= SHARE_CAP_FROM_NANOS:
            over = max(0, revenue.amount_nanos - share_cap)
        above += over
        if exposure_s := _EXPOSURE_S[revenue.tier]:
            young += revenue.amount_nanos - over
            young_until_s = max(young_until_s, period_end_s + exposure_s)
    return (
        HeldPart(HeldReason.BUYER_SHARE, above, period_end_s + CHARGEBACK_WINDOW_S),
        HeldPart(HeldReason.NEW_BUYER, young, young_until_s),
    )


def _reserve_part(
    revenues: Sequence[Revenue], linked: Collection[str], served_s: int, period_end_s: int
) -> HeldPart:
    """The reserve is a share of everything; what is linked is wholly held already."""
    total = sum(revenue.amount_nanos for revenue in revenues if revenue.buyer not in linked)
    amount = total * reserve_basis_points(served_s) // BASIS_POINTS
    return HeldPart(HeldReason.RESERVE, amount, period_end_s + RESERVE_KEPT_S)


def _fit(held: Sequence[HeldPart], total: Nanos, available: Nanos) -> Release:
    """Let no part take what another has: the longest held come first, payable is what remains."""
    left = available
    parts: list[HeldPart] = []
    for part in sorted(held, key=lambda part: -part.until_s):
        amount = min(part.amount_nanos, left)
        if amount:
            parts.append(HeldPart(part.reason, amount, part.until_s, part.buyer))
            left -= amount
    return Release(available, left, tuple(parts))
