"""What a hold's receipts come to: who is credited, the fee, and what the buyer pays. Pure.

Every lane earns the difference between the receipt that counts and what was settled before, so a
replayed receipt is worth nothing. The buyer pays Σ earned with the fee on top, rounded down once;
the fee is what remains after the providers, so the sum is exact by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.errors import Unbalanced
from protocol.identity import PeerId
from protocol.money import BASIS_POINTS, Nanos, with_fee_nanos

__all__ = ["HoldSettlement", "LaneState", "settle_hold"]


@dataclass(frozen=True, slots=True)
class LaneState:
    """One lease's watermark. Both amounts are cumulative nanos."""

    provider: PeerId
    amount_received_nanos: Nanos
    """Of the receipt with the largest sequence."""
    amount_settled_nanos: Nanos = 0


@dataclass(frozen=True, slots=True)
class HoldSettlement:
    """charged = Σ credits + fee, always."""

    charged_nanos: Nanos
    credits: tuple[tuple[PeerId, Nanos], ...]
    """One entry a lane, in the lanes' order; 0 where nothing new was earned."""
    fee_nanos: Nanos


def settle_hold(lanes: Sequence[LaneState], fee_basis_points: int) -> HoldSettlement:
    """Settle all lanes of one hold. Raises Unbalanced if a watermark is above what it watches."""
    if not 0 <= fee_basis_points <= BASIS_POINTS:
        raise Unbalanced(f"A fee of {fee_basis_points} basis points is out of range.")
    for lane in lanes:
        if not 0 <= lane.amount_settled_nanos <= lane.amount_received_nanos:
            raise Unbalanced(f"{lane.provider.short} was settled beyond its receipts.")
    earned_by = tuple(
        (lane.provider, lane.amount_received_nanos - lane.amount_settled_nanos) for lane in lanes
    )
    earned = sum(amount for _, amount in earned_by)
    charged = with_fee_nanos(earned, fee_basis_points)
    settlement = HoldSettlement(charged, earned_by, charged - earned)
    assert settlement.fee_nanos >= 0
    assert earned + settlement.fee_nanos == settlement.charged_nanos
    return settlement
