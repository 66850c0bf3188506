"""JSON of `operations`."""

from typing import Annotated, Any

from pydantic import Field

from marketplace.fields import HexId, Printable, Schema

__all__ = [
    "AgeBucket",
    "ApprovalList",
    "ApprovalRequest",
    "ApprovalSchema",
    "BooksSchema",
    "ClearingAccount",
    "ClearingList",
    "CodeSums",
    "SumsSchema",
    "ViolationSchema",
]


class ApprovalRequest(Schema):
    """What is asked of the second person."""

    approval_id: HexId
    action: str
    subject: Annotated[Printable, Field(min_length=1, max_length=128)]
    parameters: dict[str, Any] = Field(default_factory=dict, max_length=16)
    reason: Annotated[Printable, Field(min_length=3, max_length=500)]


class ApprovalSchema(Schema):
    """What was asked, by whom, and what became of it."""

    approval_id: HexId
    action: str
    subject: str
    parameters: dict[str, Any]
    reason: str
    asked_by: str
    asked_at_s: int
    expires_at_s: int
    decided_by: str | None
    decided_at_s: int | None
    outcome: str | None
    """`done`, `refused`, `withdrawn`; null while it waits."""


class ApprovalList(Schema):
    """The newest first."""

    data: list[ApprovalSchema]


class CodeSums(Schema):
    """All accounts of one code. Balance: credits less debits."""

    code: str
    accounts: int
    balance_nanos: int
    pending_debits_nanos: int
    pending_credits_nanos: int


class SumsSchema(Schema):
    """The whole book by code; `sum_nanos` is 0, or the book is broken."""

    data: list[CodeSums]
    sum_nanos: int
    liabilities_nanos: int
    """Owed to buyers and providers."""


class AgeBucket(Schema):
    """What has been under way for less than this long."""

    younger_than_s: int | None
    """Null: older than all the others."""
    items: int
    nanos: int


class ClearingAccount(Schema):
    """Money on its way: it must come to nothing again. `late`: older than it ever should be."""

    name: str
    items: int
    nanos: int
    oldest_s: int | None
    late: bool
    buckets: list[AgeBucket]


class ClearingList(Schema):
    """Holds, payouts, parked money."""

    data: list[ClearingAccount]


class ViolationSchema(Schema):
    """One row that breaks one rule."""

    invariant: str
    detail: str


class BooksSchema(Schema):
    """Whether every rule holds now."""

    ok: bool
    violations: list[ViolationSchema]
