"""What a provider has carried and earned, from the ledger."""

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.fields import SpanSchema, WorkSchema
from marketplace.leases.repository import SessionRepository
from marketplace.statements.schemas import StatedSession, Statement
from protocol.identity import PeerId

__all__ = ["statement"]

SESSIONS_SHOWN = 100
"""The newest; older ones are in the public log."""


def statement(session: Session, provider: PeerId) -> Statement:
    """The provider's earnings so far, and its newest sessions."""
    account = AccountRef(AccountCode.PROVIDER_EARNED, str(provider))
    lanes = SessionRepository(session).of_provider(provider, SESSIONS_SHOWN)
    return Statement(
        peer_id=provider,
        # credits, not the balance: what is paid out later was earned all the same
        earned_nanos=Book(session).balance(account).credits_posted,
        sessions=[
            StatedSession(
                lease_id=lane.lease.lease_id,
                span=SpanSchema.of(lane.lease.span),
                amount_nanos=lane.received_nanos,
                work=WorkSchema.of(lane.work),
                settled=lane.settled,
            )
            for lane in lanes
        ],
    )
