"""What reconciliation found and what the inbox gave up, for the operator's page."""

from ledger.database import Session
from marketplace.payments.inbox.repository import WebhookRepository
from marketplace.payments.operator_schemas import (
    DeadEvent,
    FindingSchema,
    ReconciliationSchema,
    RunSchema,
)
from marketplace.payments.reconciling.repository import ReconcilingRepository

__all__ = ["revive", "show"]

RUNS_MAX = 31
FINDINGS_MAX = 200
EVENTS_MAX = 200


def show(session: Session) -> ReconciliationSchema:
    """A month of runs, and everything that is open."""
    repository, webhooks = ReconcilingRepository(session), WebhookRepository(session)
    return ReconciliationSchema(
        runs=[
            RunSchema(
                started_at_s=row.started_at_s,
                transactions=row.transactions,
                processor_nanos=row.processor_nanos,
                book_nanos=row.book_nanos,
                in_flight_nanos=row.in_flight_nanos,
                difference_nanos=row.book_nanos - row.in_flight_nanos - row.processor_nanos,
                findings_open=row.findings_open,
            )
            for row in repository.last(RUNS_MAX)
        ],
        findings=[
            FindingSchema(
                kind=row.kind,
                subject=row.subject,
                book_nanos=row.book_nanos,
                processor_nanos=row.processor_nanos,
                found_at_s=row.found_at_s,
            )
            for row in repository.open_findings(FINDINGS_MAX)
        ],
        webhooks_waiting=webhooks.count("new"),
        webhooks_dead=[
            DeadEvent(
                event_id=row.event_id,
                kind=row.kind,
                object_id=row.object_id,
                error=row.error,
                received_at_s=row.received_at_s,
            )
            for row in webhooks.dead(EVENTS_MAX)
        ],
    )


def revive(session: Session, event_id: str, *, now_s: int) -> None:
    """A dead event is acted on again; one that is not dead is left as it is."""
    WebhookRepository(session).revive(event_id, now_s)
