"""Entries of the public log, in canonical CBOR: what anyone needs to compute every pay again. Pure.

An entry is `[kind, fields]`. It holds whole signed records, not digests of them, so that an auditor
needs nothing else from the marketplace. No entry names a buyer.
"""

from dataclasses import dataclass
from enum import StrEnum

from ledger.errors import AuditFailed
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.money import Nanos
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields

__all__ = [
    "LANES_PER_HOLD_MAX",
    "LEAF_BYTES_MAX",
    "BalancesLeaf",
    "EquivocationLeaf",
    "LaneCredit",
    "Leaf",
    "LeafKind",
    "ParkLeaf",
    "ReceiptLeaf",
    "RulingLeaf",
    "SettlementLeaf",
    "decode_leaf",
    "encode_leaf",
    "kind_of",
]

LANES_PER_HOLD_MAX = 512
"""A route has at most 64 hops, and each replacement of some a hold of its own; the rest is room."""

LEAF_BYTES_MAX = 64 * 1024
"""A receipt's leaf is under 2 KiB; a settlement of 512 lanes is about 50 KiB."""


class LeafKind(StrEnum):
    """What an entry is."""

    RECEIPT = "receipt"
    SETTLEMENT = "settlement"
    BALANCES = "balances"
    PARK = "park"
    RULING = "ruling"
    EQUIVOCATION = "equivocation"


@dataclass(frozen=True, slots=True)
class ReceiptLeaf:
    """A receipt that was accepted, with the lease it stands under; both as they were signed."""

    lease_envelope: bytes
    cosigned: bytes


@dataclass(frozen=True, slots=True)
class LaneCredit:
    """What one lease earned its provider."""

    lease_id: bytes
    provider: PeerId
    nanos: Nanos
    parked: bool = False
    """Nobody has it yet: it lies under the lease's name until a ruling says whose it is."""


@dataclass(frozen=True, slots=True)
class SettlementLeaf:
    """How one hold was resolved: charged = Σ credits + fee, parked credits among them."""

    hold_id: bytes
    charged_nanos: Nanos
    fee_nanos: Nanos
    fee_basis_points: int
    credits: tuple[LaneCredit, ...]
    """One a lease that had a receipt, in order of lease id."""


@dataclass(frozen=True, slots=True)
class ParkLeaf:
    """What was credited before and is nobody's now: a claim against its output is examined."""

    dispute_id: bytes
    lease_id: bytes
    provider: PeerId
    nanos: Nanos
    reason: str

    def __post_init__(self) -> None:
        if self.nanos <= 0:
            raise RemoteProtocolError("What is parked is more than nothing.")


@dataclass(frozen=True, slots=True)
class RulingLeaf:
    """Whose parked money is: both amounts leave what is parked under the lease."""

    dispute_id: bytes
    lease_id: bytes
    provider: PeerId
    to_provider_nanos: Nanos
    to_buyer_nanos: Nanos
    reason: str
    """In words, as it was approved."""

    def __post_init__(self) -> None:
        if self.to_provider_nanos < 0 or self.to_buyer_nanos < 0:
            raise RemoteProtocolError("A ruling gives; it takes nothing.")


@dataclass(frozen=True, slots=True)
class EquivocationLeaf:
    """Two receipts of one payer that cannot both be true: proof by itself."""

    lease_envelope: bytes
    first: bytes
    """Co-signed, as the one that was known before came."""
    second: bytes


@dataclass(frozen=True, slots=True)
class BalancesLeaf:
    """What was owed to buyers and providers in all: the root of a tree over their accounts."""

    root: bytes
    sum_nanos: Nanos
    count: int
    """Accounts in the tree."""
    taken_at_s: int


Leaf = ReceiptLeaf | SettlementLeaf | BalancesLeaf | ParkLeaf | RulingLeaf | EquivocationLeaf

_KINDS: dict[LeafKind, type[Leaf]] = {
    LeafKind.RECEIPT: ReceiptLeaf,
    LeafKind.SETTLEMENT: SettlementLeaf,
    LeafKind.BALANCES: BalancesLeaf,
    LeafKind.PARK: ParkLeaf,
    LeafKind.RULING: RulingLeaf,
    LeafKind.EQUIVOCATION: EquivocationLeaf,
}


_BEFORE_COSIGNED = b"\x82\x67receipt\xa2\x68cosigned"
_BEFORE_LEASE = b"\x6elease_envelope"
"""What of a receipt's entry is the same in each, in canonical CBOR."""


def kind_of(leaf: Leaf) -> LeafKind:
    """Its name in the log."""
    match leaf:
        case ReceiptLeaf():
            return LeafKind.RECEIPT
        case SettlementLeaf():
            return LeafKind.SETTLEMENT
        case BalancesLeaf():
            return LeafKind.BALANCES
        case ParkLeaf():
            return LeafKind.PARK
        case RulingLeaf():
            return LeafKind.RULING
        case EquivocationLeaf():
            return LeafKind.EQUIVOCATION


def encode_leaf(leaf: Leaf) -> bytes:
    """The entry's bytes: what the tree hashes."""
    if isinstance(leaf, ReceiptLeaf):
        # nearly every entry is one; its bytes are known but for those of two signed records
        cosigned, lease = encode_canonical(leaf.cosigned), encode_canonical(leaf.lease_envelope)
        return b"".join((_BEFORE_COSIGNED, cosigned, _BEFORE_LEASE, lease))
    return encode_canonical([kind_of(leaf).value, encode_fields(leaf)])


def decode_leaf(data: bytes) -> Leaf:
    """Parse an entry; raises AuditFailed for anything that is not exactly one."""
    try:
        value = decode_canonical(data, size_max=LEAF_BYTES_MAX)
        if not isinstance(value, list) or len(value) != 2 or value[0] not in list(LeafKind):
            raise AuditFailed("The entry is of no kind that is known.")
        return decode_fields(_KINDS[LeafKind(value[0])], value[1])
    except RemoteProtocolError as error:
        raise AuditFailed(f"The entry does not parse: {error}") from None
