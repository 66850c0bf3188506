"""The moves of a payout: a step along the table together with its posting in the book."""

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.payouts.models import PayoutRow
from marketplace.payouts.repository import PayoutRepository
from marketplace.payouts.states import PayoutState, require_step

__all__ = ["FROZEN", "give_back", "hold", "in_transit_account", "payable_account", "post", "step"]

FROZEN = "frozen"
"""Reason of a payout that is held because its account is frozen."""


def step(session: Session, row: PayoutRow, target: PayoutState, *, now_s: int) -> None:
    """Move a locked payout along the table; raises PayoutStateInvalid."""
    require_step(PayoutState(row.state), target)
    row.state, row.changed_at_s = target.value, now_s
    PayoutRepository(session).save()


def hold(session: Session, row: PayoutRow, kind: str, detail: str, *, now_s: int) -> None:
    """Stop a locked payout until a person, or the end of a freeze, lets it go on."""
    row.reason, row.deadline_s = kind, None
    step(session, row, PayoutState.HELD, now_s=now_s)
    if kind != FROZEN:
        PayoutRepository(session).raise_alarm(
            row.payout_id, kind, detail, attempt=row.attempt, now_s=now_s
        )


def give_back(
    session: Session, row: PayoutRow, target: PayoutState, reason: str, *, now_s: int
) -> None:
    """End a payout that was not sent, FAILED or CANCELED: its money is payable again."""
    row.reason, row.deadline_s = reason[:200], None
    step(session, row, target, now_s=now_s)
    source, to = in_transit_account(row.account_id), payable_account(row.account_id)
    post(session, row, source, to, "payout_failed", now_s=now_s)


def post(
    session: Session,
    row: PayoutRow,
    debit: AccountRef,
    credit: AccountRef,
    code: str,
    *,
    now_s: int,
) -> None:
    """Move the payout's amount, once for each code."""
    amount, ref = row.amount_nanos, row.payout_id.hex()
    Book(session).transfer(debit, credit, amount, code=code, ref=ref, now_s=now_s)


def payable_account(account_id: str) -> AccountRef:
    """What of the account's earnings waits for a payout."""
    return AccountRef(AccountCode.PROVIDER_PAYABLE, account_id)


def in_transit_account(account_id: str) -> AccountRef:
    """What of the account's earnings is in a payout that is open."""
    return AccountRef(AccountCode.PROVIDER_IN_TRANSIT, account_id)
