"""Money and work: integer nanos, rates with their unit in the name, and the one place that rounds.

One nano is a billionth of a US dollar. What is owed rounds down, always on the *cumulative* work of
a lease, never on increments: so neither order nor splitting of receipts can change a sum.
"""

from dataclasses import dataclass

from protocol.errors import RemoteProtocolError

__all__ = [
    "BASIS_POINTS",
    "MIB",
    "NANOS_PER_USD",
    "Nanos",
    "Rates",
    "Work",
    "amount_nanos",
    "format_usd",
    "with_fee_nanos",
    "work_bound",
]

Nanos = int
"""Integer billionths of a US dollar; a BIGINT wherever it is stored."""

NANOS_PER_USD = 1_000_000_000
BASIS_POINTS = 10_000
MIB = 1 << 20
_MILLION = 1_000_000
RATE_MAX = 10**12
"""No rate is above 1 000 dollars a unit: keeps every product inside what we can store."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a provider asks. Nanos per million token-layers, and per MiB of activations sent."""

    prefill_nanos_per_million_token_layers: int
    decode_nanos_per_million_token_layers: int
    activation_nanos_per_mib: int

    def __post_init__(self) -> None:
        for rate in (
            self.prefill_nanos_per_million_token_layers,
            self.decode_nanos_per_million_token_layers,
            self.activation_nanos_per_mib,
        ):
            if not 0 <= rate <= RATE_MAX:
                raise RemoteProtocolError(f"A rate of {rate} nanos is outside [0, {RATE_MAX}].")


@dataclass(frozen=True, slots=True)
class Work:
    """What one hop has carried so far. Bytes are activation payloads, without frame headers."""

    prefill_token_layers: int = 0
    decode_token_layers: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def __post_init__(self) -> None:
        for count in (
            self.prefill_token_layers,
            self.decode_token_layers,
            self.bytes_in,
            self.bytes_out,
        ):
            if not 0 <= count <= 2**62:
                raise RemoteProtocolError("A count of work is negative or absurd.")

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.prefill_token_layers + other.prefill_token_layers,
            self.decode_token_layers + other.decode_token_layers,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
        )

    def covers(self, other: "Work") -> bool:
        """Whether no count of `other` is above ours."""
        return (
            self.prefill_token_layers >= other.prefill_token_layers
            and self.decode_token_layers >= other.decode_token_layers
            and self.bytes_in >= other.bytes_in
            and self.bytes_out >= other.bytes_out
        )


def amount_nanos(work: Work, rates: Rates) -> Nanos:
    """What cumulative `work` earns at `rates`, rounded down once."""
    layers = (
        work.prefill_token_layers * rates.prefill_nanos_per_million_token_layers
        + work.decode_token_layers * rates.decode_nanos_per_million_token_layers
    )
    # both terms over the common denominator 10^6 · 2^20, so that there is one division
    return (layers * MIB + work.bytes_out * rates.activation_nanos_per_mib * _MILLION) // (
        _MILLION * MIB
    )


def with_fee_nanos(earned_nanos: Nanos, fee_basis_points: int) -> Nanos:
    """What the buyer pays so that providers get `earned_nanos`: the fee on top, rounded down."""
    return earned_nanos * (BASIS_POINTS + fee_basis_points) // BASIS_POINTS


def work_bound(
    *, layers: int, prompt_tokens: int, output_tokens: int, bytes_per_token: int
) -> Work:
    """The most a hop of `layers` can be asked to do; what a lease is limited to.

    Every token of prompt and output passes once; each may leave the hop as one activation row.
    """
    tokens = prompt_tokens + output_tokens
    return Work(
        prefill_token_layers=prompt_tokens * layers,
        decode_token_layers=output_tokens * layers,
        bytes_in=tokens * bytes_per_token,
        bytes_out=tokens * bytes_per_token,
    )


def format_usd(amount: Nanos) -> str:
    """`$0.000012345`: always nine digits after the point, so that columns line up."""
    sign, amount = ("-", -amount) if amount < 0 else ("", amount)
    return f"{sign}${amount // NANOS_PER_USD}.{amount % NANOS_PER_USD:09d}"
