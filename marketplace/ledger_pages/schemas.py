"""JSON of `ledger_pages`."""

from marketplace.fields import Base64Bytes, HexHash, Schema

__all__ = [
    "AccountTotals",
    "CheckpointTotals",
    "ConsistencyProof",
    "InclusionProof",
    "LeafPage",
    "Totals",
]


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
