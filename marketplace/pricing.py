"""What work costs: a hop's bound, a route's price, a model's price list. Integer nanos only.

The search compares exact costs in units of 1 / (10^6 · 2^20) nano, the common denominator of the
three rates; what is charged is always `protocol.money.amount_nanos`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.money import MIB, Nanos, Rates, Work, amount_nanos, with_fee_nanos, work_bound
from protocol.route import Span
from protocol.tensor import WireDtype

__all__ = [
    "PriceList",
    "WorkPlan",
    "bound_of",
    "hop_cost",
    "layer_cost",
    "penalty_cost",
    "price_list",
    "price_of",
]

_MILLION = 1_000_000
_COST_PER_NANO = _MILLION * MIB

HOP_PENALTY_NANOS_PER_TOKEN = 1
"""What a buyer gives to save a hop: each adds a trip to every token. About 2 % of an 8B's price."""


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """The most a session will ask of a model."""

    layers: int
    hidden_size: int
    prompt_tokens: int
    max_tokens: int
    wire_dtype: WireDtype
    drafted_tokens: int = 0
    """Of an answer's drafts: rows that may be run in vain, and hold no place."""
    funded_tokens: int | None = None
    """Of the answer: what is held for at first; None: all of it."""

    @property
    def output_rows(self) -> int:
        """Rows of the answer that may be run for what is held."""
        funded = self.max_tokens if self.funded_tokens is None else self.funded_tokens
        return funded + self.drafted_tokens

    @property
    def tokens(self) -> int:
        """Rows the session holds at each hop in the end."""
        return self.prompt_tokens + self.max_tokens

    @property
    def bytes_per_token(self) -> int:
        return self.wire_dtype.row_bytes(self.hidden_size)


@dataclass(frozen=True, slots=True)
class PriceList:
    """What a million tokens cost a buyer now, fee and activations included."""

    prompt_nanos_per_million_tokens: Nanos
    completion_nanos_per_million_tokens: Nanos


def bound_of(span: Span, plan: WorkPlan) -> Work:
    """The most the hop of `span` can be asked to do."""
    return work_bound(
        layers=len(span),
        prompt_tokens=plan.prompt_tokens,
        output_tokens=plan.output_rows,
        bytes_per_token=plan.bytes_per_token,
    )


def price_of(hops: Iterable[tuple[Span, Rates]], plan: WorkPlan, fee_basis_points: int) -> Nanos:
    """The most a buyer pays for the route: every hop's bound, and the fee on their sum."""
    earned = sum(amount_nanos(bound_of(span, plan), rates) for span, rates in hops)
    return with_fee_nanos(earned, fee_basis_points)


def price_list(
    hops: Iterable[tuple[Span, Rates]], plan: WorkPlan, fee_basis_points: int
) -> PriceList:
    """A route's price per million tokens read and written; sizes from `plan`, its counts unused."""
    route = list(hops)

    def price(prompt_tokens: int, max_tokens: int) -> Nanos:
        million = WorkPlan(
            plan.layers, plan.hidden_size, prompt_tokens, max_tokens, plan.wire_dtype
        )
        return price_of(route, million, fee_basis_points)

    return PriceList(price(_MILLION, 0), price(0, _MILLION))


def layer_cost(rates: Rates, plan: WorkPlan) -> int:
    """What one layer costs for the whole plan, in the search's unit."""
    return MIB * (
        plan.prompt_tokens * rates.prefill_nanos_per_million_token_layers
        + plan.output_rows * rates.decode_nanos_per_million_token_layers
    )


def hop_cost(rates: Rates, plan: WorkPlan) -> int:
    """What a hop costs whatever its length: its activations, in the search's unit."""
    rows = plan.prompt_tokens + plan.output_rows
    return _MILLION * rows * plan.bytes_per_token * rates.activation_nanos_per_mib


def penalty_cost(plan: WorkPlan) -> int:
    """What one hop more is worth avoiding, in the search's unit."""
    return _COST_PER_NANO * plan.tokens * HOP_PENALTY_NANOS_PER_TOKEN
