"""What an account paid in and what went back, for its owner's page."""

from ledger.database import Session
from marketplace.payments.models import PaymentRow, RechargeRow, TopupRow
from marketplace.payments.refunds.service import schema_of
from marketplace.payments.repository import TopupRepository
from marketplace.payments.schemas import HistorySchema, TopupEntry

__all__ = ["history"]

ENTRIES_MAX = 200
"""Of each kind: years of topping up by hand."""


def history(session: Session, account_id: str) -> HistorySchema:
    """The latest top-ups and refunds, newest first."""
    repository = TopupRepository(session)
    return HistorySchema(
        topups=[_entry(*rows) for rows in repository.page(account_id, ENTRIES_MAX)],
        refunds=[schema_of(row) for row in repository.refunds(account_id, ENTRIES_MAX)],
    )


def _entry(topup: TopupRow, payment: PaymentRow, recharge: RechargeRow | None) -> TopupEntry:
    status = "paid" if topup.paid_at_s is not None else "failed" if payment.failure else "open"
    return TopupEntry.model_validate(
        {
            "topup_id": topup.topup_id,
            "kind": "topup" if recharge is None else "recharge",
            "status": status,
            "amount_nanos": topup.amount_nanos,
            "refunded_nanos": payment.refunded_nanos,
            "failure": payment.failure,
            "receipt_url": payment.receipt_url,
            "created_at_s": topup.created_at_s,
            "paid_at_s": topup.paid_at_s,
        }
    )
