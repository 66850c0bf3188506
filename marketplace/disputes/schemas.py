"""JSON of `disputes`. Money in nanos, times in unix seconds."""

from typing import Annotated, Literal

from pydantic import Field

from ledger.dispute_models import REASON_CHARACTERS_MAX
from marketplace.disputes.models import STATEMENT_CHARACTERS_MAX
from marketplace.fields import Base64Bytes, HexHash, HexId, PeerText, Printable, Schema

__all__ = [
    "ClaimSchema",
    "DisputeList",
    "DisputeSchema",
    "DisputedLease",
    "MismatchSchema",
    "NewStatement",
    "OpenDispute",
    "OpenDisputeList",
    "ProposalSchema",
    "RefusalList",
    "RefusalSchema",
    "StatementSchema",
]

Claim = Annotated[Printable, Field(min_length=1, max_length=REASON_CHARACTERS_MAX)]


class DisputedLease(Schema):
    """What of one lease is parked, and where a ruling sent it."""

    lease_id: HexId
    provider: PeerText
    parked_nanos: int
    to_provider_nanos: int | None
    to_buyer_nanos: int | None


class MismatchSchema(Schema):
    """One link of which its two ends say different things."""

    sender: PeerText
    receiver: PeerText
    hop_index: int
    """Of the sender."""
    epoch: int
    steps: int
    link_out_hash: HexHash
    link_in_hash: HexHash
    bytes_out: int
    bytes_in: int


class StatementSchema(Schema):
    """What somebody concerned has said."""

    statement_id: HexId
    author: str
    """A machine's PeerId, or `member` for somebody of an account."""
    body: str
    made_at_s: int


class DisputeSchema(Schema):
    """A dispute, as those see it whom it concerns."""

    dispute_id: HexId
    kind: Literal["link_mismatch", "bad_output"]
    state: Literal["open", "ruled"]
    claim: str
    session_id: HexId
    opened_at_s: int
    statements_until_s: int
    ruled_at_s: int | None
    ruling: str
    leases: list[DisputedLease]
    mismatches: list[MismatchSchema]
    statements: list[StatementSchema]


class DisputeList(Schema):
    """The newest first; at most a page."""

    data: list[DisputeSchema]


class NewStatement(Schema):
    """`statement_id`: chosen by the author; the same again is answered the same."""

    statement_id: HexId
    body: Annotated[str, Field(min_length=1, max_length=STATEMENT_CHARACTERS_MAX)]


class ProposalSchema(Schema):
    """What the graph of blame proposes: to be approved by two people, or ruled otherwise."""

    reason: str
    decisions: list[DisputedLease]


class OpenDispute(Schema):
    """A dispute that waits for a ruling, as an operator sees it."""

    dispute: DisputeSchema
    filed_by: str
    evidence: Base64Bytes
    proposal: ProposalSchema | None
    may_rule_from_s: int
    """From when a ruling may take money from whoever has made no statement."""


class OpenDisputeList(Schema):
    """The oldest first."""

    data: list[OpenDispute]


class ClaimSchema(Schema):
    """A claim that a lease's output was not its model's. `dispute_id`: chosen by the filer."""

    dispute_id: HexId
    lease_id: HexId
    claim: Claim
    evidence: Base64Bytes


class RefusalSchema(Schema):
    """How often one account's heads left hops without the last receipt."""

    account_id: str
    leases: int
    """Settled in the period, with any receipt."""
    unsigned: int
    """Of them without a final receipt."""
    providers: int
    """Distinct machines among those."""
    equivocations: int


class RefusalList(Schema):
    """Worst first."""

    data: list[RefusalSchema]
