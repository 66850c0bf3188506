"""What an account is shown of its payouts. Reads only."""

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.payouts.recipients import exit_at_s, terms_of
from marketplace.payouts.repository import PayoutRepository
from marketplace.payouts.schemas import PayoutList, PayoutSchema, ScheduleSchema
from marketplace.standing import service as standing

__all__ = ["listing"]


def listing(
    session: Session, account_id: str, *, before_s: int, limit: int, now_s: int
) -> PayoutList:
    """The account's payouts made before then, and its three balances."""
    book = Book(session)
    payable, held, in_transit = (
        book.balance(AccountRef(code, account_id)).posted_nanos
        for code in (
            AccountCode.PROVIDER_PAYABLE,
            AccountCode.PROVIDER_HELD,
            AccountCode.PROVIDER_IN_TRANSIT,
        )
    )
    rows = PayoutRepository(session).of_account(account_id, before_s=before_s, limit=limit)
    return PayoutList(
        data=[PayoutSchema.of(row) for row in rows],
        payable_nanos=payable,
        held_nanos=held,
        in_transit_nanos=in_transit,
        frozen=list(standing.of(session, account_id, now_s=now_s).frozen),
        schedule=ScheduleSchema.of(terms_of(session, account_id)),
        exit_at_s=exit_at_s(session, account_id),
    )
