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
    "LaneCredit",
    "Leaf",
    "LeafKind",
    "ReceiptLeaf",
    "SettlementLeaf",
    "decode_leaf",
    "encode_leaf",
    "kind_of",
]

LANES_PER_HOLD_MAX = 512
"""A route has at most 64 hops, and each replacement of some a hold of its own; the rest is room."""

LEAF_BYTES_MAX = 64 * 1024
"""A receipt's leaf is under 2 KiB; a settlement of 512 lanes is about 45 KiB."""


class LeafKind(StrEnum):
    """What an entry is."""

    RECEIPT = "receipt"
    SETTLEMENT = "settlement"


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


@dataclass(frozen=True, slots=True)
class SettlementLeaf:
    """How one hold was resolved: charged = Σ credits + fee."""

    hold_id: bytes
    charged_nanos: Nanos
    fee_nanos: Nanos
    fee_basis_points: int
    credits: tuple[LaneCredit, ...]
    """One a lease that had a receipt, in order of lease id."""


Leaf = ReceiptLeaf | SettlementLeaf

_KINDS: dict[LeafKind, type[ReceiptLeaf] | type[SettlementLeaf]] = {
    LeafKind.RECEIPT: ReceiptLeaf,
    LeafKind.SETTLEMENT: SettlementLeaf,
}


def kind_of(leaf: Leaf) -> LeafKind:
    """Its name in the log."""
    match leaf:
        case ReceiptLeaf():
            return LeafKind.RECEIPT
        case SettlementLeaf():
            return LeafKind.SETTLEMENT


def encode_leaf(leaf: Leaf) -> bytes:
    """The entry's bytes: what the tree hashes."""
    return encode_canonical([kind_of(leaf).value, encode_fields(leaf)])


def decode_leaf(data: bytes) -> Leaf:
    """Parse an entry; raises AuditFailed for anything that is not exactly one."""
    try:
        value = decode_canonical(data, size_max=LEAF_BYTES_MAX)
        if not isinstance(value, list) or len(value) != 2 or value[0] not in list(LeafKind):
            raise AuditFailed("The entry is neither a receipt nor a settlement.")
        return decode_fields(_KINDS[LeafKind(value[0])], value[1])
    except RemoteProtocolError as error:
        raise AuditFailed(f"The entry does not parse: {error}") from None
