"""JSON of `ledger_pages`."""

from typing import Annotated

from pydantic import Field

from ledger.balance_snapshots import Snapshot
from ledger.balance_tree import BalanceProof
from marketplace.fields import Base64Bytes, HexHash, HexId, Schema

__all__ = [
    "AccountTotals",
    "BalanceNodeSchema",
    "BalanceProofSchema",
    "BalanceProofs",
    "CheckpointPage",
    "CheckpointTotals",
    "ConsistencyProof",
    "InclusionProof",
    "LeafPage",
    "LoggedReceipt",
    "LoggedReceipts",
    "NewCosignature",
    "SnapshotSchema",
    "Totals",
]

LINE_CHARACTERS_MAX = 512
"""A cosignature's line has about 180."""


class LeafPage(Schema):
    """Payloads of the log's leaves; `next` is where to go on, or null at the end."""

    leaves: list[Base64Bytes]
    next: int | None


class InclusionProof(Schema):
    """RFC 6962: leaf `index` is in the tree of `size`."""

    index: int
    size: int
    hashes: list[HexHash]


class ConsistencyProof(Schema):
    """RFC 6962: the tree of `second` begins with the tree of `first`."""

    first: int
    second: int
    hashes: list[HexHash]


class AccountTotals(Schema):
    """Sums over all accounts of one code."""

    debits_posted: int
    credits_posted: int
    debits_pending: int
    credits_pending: int


class CheckpointTotals(Schema):
    """What all settlements up to the newest checkpoint came to: charged = credited + fee."""

    size: int
    charged_nanos: int
    credited_nanos: int
    fee_nanos: int
    parked_nanos: int = 0
    """Earned, and nobody's until it is ruled on."""


class CheckpointPage(Schema):
    """A signed checkpoint with its cosignatures, and what the book said at its size."""

    size: int
    note: str
    created_at_s: int
    totals: CheckpointTotals


class Totals(Schema):
    """The whole book in one page."""

    accounts: dict[str, AccountTotals]
    sum_nanos: int
    """Credits less debits over all accounts: 0, or the book is broken."""
    providers: dict[str, int]
    """What each provider has earned in all, by PeerId."""
    next_provider: str | None
    """Where to go on with `after=`, if there are more providers than one page holds."""
    checkpoint: CheckpointTotals


class NewCosignature(Schema):
    """A witness's line under the checkpoint of `size`."""

    size: Annotated[int, Field(ge=0, lt=2**63)]
    line: Annotated[str, Field(max_length=LINE_CHARACTERS_MAX)]


class LoggedReceipt(Schema):
    """Where the log has the receipt of a lease that counts."""

    lease_id: HexId
    sequence: int
    leaf_index: int


class LoggedReceipts(Schema):
    """Of one lease, or of every lease of one session."""

    receipts: list[LoggedReceipt]


class SnapshotSchema(Schema):
    """What was owed to buyers and providers in all, and the log's entry that says so."""

    root: HexHash
    sum_nanos: int
    count: int
    taken_at_s: int
    leaf_index: int

    @classmethod
    def of(cls, snapshot: Snapshot) -> "SnapshotSchema":
        return cls(
            root=snapshot.root,
            sum_nanos=snapshot.sum_nanos,
            count=snapshot.account_count,
            taken_at_s=snapshot.taken_at_s,
            leaf_index=snapshot.leaf_index,
        )


class BalanceNodeSchema(Schema):
    """A branch beside the way: its hash, and what its accounts are owed together."""

    hash: HexHash
    sum_nanos: int


class BalanceProofSchema(Schema):
    """One account's place in the tree; `salt` is its owner's alone."""

    account: str
    sum_nanos: int
    salt: HexHash
    index: int
    siblings: list[BalanceNodeSchema]

    @classmethod
    def of(cls, proof: BalanceProof) -> "BalanceProofSchema":
        return cls(
            account=proof.account,
            sum_nanos=proof.sum_nanos,
            salt=proof.salt,
            index=proof.index,
            siblings=[
                BalanceNodeSchema(hash=node.hash, sum_nanos=node.sum_nanos)
                for node in proof.siblings
            ],
        )


class BalanceProofs(Schema):
    """Every account of one owner in the newest tree."""

    snapshot: SnapshotSchema
    proofs: list[BalanceProofSchema]
