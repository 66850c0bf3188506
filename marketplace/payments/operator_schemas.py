"""JSON of `payments` for operators."""

from marketplace.fields import Schema

__all__ = ["DeadEvent", "FindingSchema", "ReconciliationSchema", "RunSchema"]


class RunSchema(Schema):
    """One comparison. `difference_nanos`: 0, but for what findings explain."""

    started_at_s: int
    transactions: int
    processor_nanos: int
    book_nanos: int
    in_flight_nanos: int
    difference_nanos: int
    findings_open: int


class FindingSchema(Schema):
    """What the two sides tell differently. `subject`: the processor's name, or code and ref."""

    kind: str
    subject: str
    book_nanos: int
    processor_nanos: int
    found_at_s: int


class DeadEvent(Schema):
    """A webhook that was given up, and why."""

    event_id: str
    kind: str
    object_id: str
    error: str
    received_at_s: int


class ReconciliationSchema(Schema):
    """The latest runs, newest first, and what is open."""

    runs: list[RunSchema]
    findings: list[FindingSchema]
    webhooks_waiting: int
    webhooks_dead: list[DeadEvent]
