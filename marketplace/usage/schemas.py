"""JSON of `usage`."""

from typing import Literal

from marketplace.fields import HexId, Schema

__all__ = [
    "GroupBy",
    "InvoiceLine",
    "InvoiceList",
    "InvoiceSchema",
    "InvoiceSummary",
    "RequestList",
    "RequestSchema",
    "RequestStatus",
    "UsageList",
    "UsageSchema",
]

GroupBy = Literal["day", "model", "key"]
RequestStatus = Literal["open", "closed", "settled", "released"]


class UsageSchema(Schema):
    """Requests of one day, one model, or one key. Tokens: rows through the whole model."""

    group: str
    """`2026-11-21`, the model's name, or the key's id."""
    requests: int
    prompt_tokens: int
    output_tokens: int
    bytes_carried: int
    """Of activations, over all links."""
    charged_nanos: int
    held_nanos: int
    """Of requests that are not settled yet."""


class UsageList(Schema):
    """In the order of `group`; `total` is the sum of `data`."""

    by: GroupBy
    start: str
    end: str
    data: list[UsageSchema]
    total: UsageSchema


class RequestSchema(Schema):
    """One paid request. Its receipts are at `/v1/sessions/{session_id}`."""

    session_id: HexId
    created_at_s: int
    closed_at_s: int | None
    model: str
    key_id: str
    status: RequestStatus
    prompt_tokens: int
    output_tokens: int
    charged_nanos: int
    held_nanos: int


class RequestList(Schema):
    """The newest first; `next` goes on with `before=`."""

    data: list[RequestSchema]
    next: str | None


class InvoiceLine(Schema):
    """One model in one month."""

    model: str
    requests: int
    prompt_tokens: int
    output_tokens: int
    amount_nanos: int


class InvoiceSummary(Schema):
    """A month with its sum."""

    number: str
    """`2026-11`."""
    final: bool
    """The month is over, and nothing of it is still held."""
    amount_nanos: int
    requests: int


class InvoiceSchema(Schema):
    """What one calendar month (UTC) came to. Prepaid: it is a statement, not a demand."""

    number: str
    account_id: str
    name: str
    final: bool
    lines: list[InvoiceLine]
    amount_nanos: int
    held_nanos: int


class InvoiceList(Schema):
    """Every month since the first request, the newest first."""

    data: list[InvoiceSummary]
