"""Queries of `payments.reconciling`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, func, select, text, update
from sqlmodel import Session, col

from ledger.balances import changed_rows
from ledger.database import insert_missing, metadata
from marketplace.payments.reconciling.models import FindingRow, ReconciliationRow, TransactionRow
from protocol.money import Nanos

__all__ = ["Movement", "ReconcilingRepository", "broken"]

_FINDING = metadata.tables[FindingRow.__tablename__]

_OURS = "('processor_pending:', 'processor_available:')"

_SUBJECT = "CASE code WHEN 'payout_reversed' THEN substr(ref, 1, 32) ELSE ref END"
"""A transfer may come back in parts, each a movement of its own."""

_MOVEMENTS = f"""
SELECT SUM(CASE WHEN debit IN {_OURS} THEN amount_nanos ELSE -amount_nanos END) AS amount_nanos
FROM ledger_transfer
WHERE code IN :codes AND {_SUBJECT} = :ref AND (debit IN {_OURS} OR credit IN {_OURS})
"""

_UNTOLD = f"""
SELECT t.code, t.ref, t.amount_nanos, t.created_at_s,
    CASE WHEN t.debit IN {_OURS} THEN 1 ELSE -1 END AS sign
FROM ledger_transfer t
WHERE (t.debit IN {_OURS} OR t.credit IN {_OURS})
    AND t.code NOT IN ('available', 'processor_fee')
    AND NOT EXISTS (
        SELECT 1 FROM market_processor_transaction p
        WHERE p.ref = CASE t.code WHEN 'payout_reversed' THEN substr(t.ref, 1, 32) ELSE t.ref END
            AND p.code = CASE t.code
            WHEN 'chargeback_loss' THEN 'chargeback'
            WHEN 'chargeback_won_loss' THEN 'chargeback_won'
            ELSE t.code END
    )
    AND NOT EXISTS (
        -- refused outright: it went out of the book and came back, and they never heard of it
        SELECT 1 FROM ledger_transfer other
        WHERE t.code IN ('refund', 'refund_failed') AND other.ref = t.ref
            AND other.code = CASE t.code WHEN 'refund' THEN 'refund_failed' ELSE 'refund' END
            AND NOT EXISTS (
                SELECT 1 FROM market_processor_transaction q
                WHERE q.ref = t.ref AND q.code IN ('refund', 'refund_failed')
            )
    )
ORDER BY t.id LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class Movement:
    """A movement in the book, seen from our balance at the processor: positive brings money."""

    code: str
    ref: str
    amount_nanos: Nanos
    created_at_s: int


class ReconcilingRepository:
    """What the processor said, and how the book compares."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def transaction(self, transaction_id: str) -> TransactionRow | None:
        return self._session.get(TransactionRow, transaction_id, with_for_update=True)

    def add(self, row: TransactionRow | ReconciliationRow) -> None:
        self._session.add(row)
        self._session.flush()

    def set_available(self, transaction_id: str) -> None:
        self._session.execute(
            update(TransactionRow)
            .where(col(TransactionRow.transaction_id) == transaction_id)
            .values(is_available=True)
        )

    def newest_s(self) -> int:
        """When the newest transaction that is known was made; 0 where none is."""
        query = select(func.coalesce(func.max(TransactionRow.created_at_s), 0))
        return int(self._session.execute(query).scalar_one())

    def oldest_pending_s(self) -> int | None:
        """When the oldest was made whose money is not free yet."""
        query = select(func.min(TransactionRow.created_at_s)).where(
            ~col(TransactionRow.is_available)
        )
        found = self._session.execute(query).scalar_one()
        return None if found is None else int(found)

    def walked_cents(self) -> int:
        """Our balance as the sum of everything the processor ever told of it."""
        query = select(func.coalesce(func.sum(TransactionRow.net_cents), 0))
        return int(self._session.execute(query).scalar_one())

    def in_book(self, codes: Sequence[str], ref: str) -> Nanos | None:
        """What these movements bring to our balance together; None where there are none."""
        statement = text(_MOVEMENTS).bindparams(bindparam("codes", expanding=True))
        found = self._session.execute(statement, {"codes": list(codes), "ref": ref}).scalar_one()
        return None if found is None else int(found)

    def told_cents(self, code: str, ref: str) -> int:
        """What all transactions of one movement bring together."""
        query = select(func.coalesce(func.sum(TransactionRow.amount_cents), 0)).where(
            col(TransactionRow.code) == code, col(TransactionRow.ref) == ref
        )
        return int(self._session.execute(query).scalar_one())

    def untold(self, limit: int) -> list[Movement]:
        """Movements of our balance that the processor has not told of, oldest first."""
        rows = self._session.execute(text(_UNTOLD), {"limit": limit}).all()
        return [Movement(r.code, r.ref, r.amount_nanos * r.sign, r.created_at_s) for r in rows]

    def find(self, kind: str, subject: str, book: Nanos, processor: Nanos, now_s: int) -> None:
        """Keep a finding; one that was resolved is open again."""
        values = {
            "kind": kind,
            "subject": subject,
            "book_nanos": book,
            "processor_nanos": processor,
            "found_at_s": now_s,
            "resolved_at_s": None,
        }
        insert_missing(self._session, _FINDING, [values])
        self._session.execute(
            update(FindingRow)
            .where(col(FindingRow.kind) == kind, col(FindingRow.subject) == subject)
            .values(book_nanos=book, processor_nanos=processor, resolved_at_s=None)
        )

    def resolve(self, kind: str, subject: str, now_s: int) -> bool:
        statement = (
            update(FindingRow)
            .where(
                col(FindingRow.kind) == kind,
                col(FindingRow.subject) == subject,
                col(FindingRow.resolved_at_s).is_(None),
            )
            .values(resolved_at_s=now_s)
        )
        return changed_rows(self._session, statement) == 1

    def open_findings(self, limit: int) -> list[FindingRow]:
        query = (
            select(FindingRow)
            .where(col(FindingRow.resolved_at_s).is_(None))
            .order_by(col(FindingRow.id))
            .limit(limit)
        )
        return list(self._session.execute(query).scalars())

    def last(self, limit: int) -> list[ReconciliationRow]:
        """The latest runs, newest first."""
        query = select(ReconciliationRow).order_by(col(ReconciliationRow.id).desc()).limit(limit)
        return list(self._session.execute(query).scalars())


_RULES: Sequence[tuple[str, str]] = (
    (
        "topup",
        """
SELECT 'a paid top-up of ' || t.account_id || ' is not in the book as it is here'
FROM market_topup t LEFT JOIN ledger_transfer b
    ON b.code = 'topup' AND b.ref = {topup}
WHERE t.paid_at_s IS NOT NULL AND (b.id IS NULL OR b.amount_nanos <> t.amount_nanos
    OR b.debit <> 'processor_pending:' OR b.credit <> 'buyer_cash:' || t.account_id)
""",
    ),
    (
        "topup",
        """
SELECT 'the book has ' || x.booked || ' top-ups, ' || x.paid || ' are paid'
FROM (SELECT (SELECT COUNT(*) FROM ledger_transfer WHERE code = 'topup') AS booked,
    (SELECT COUNT(*) FROM market_topup WHERE paid_at_s IS NOT NULL) AS paid) x
WHERE x.booked <> x.paid
""",
    ),
    (
        "refund",
        """
SELECT 'a refund of ' || r.account_id || ' (' || r.state || ') is not in the book as it is here'
FROM market_refund r
LEFT JOIN ledger_transfer b ON b.code = 'refund' AND b.ref = {refund}
LEFT JOIN ledger_transfer f ON f.code = 'refund_failed' AND f.ref = {refund}
WHERE b.id IS NULL OR b.amount_nanos <> r.amount_nanos
    OR b.debit <> 'buyer_cash:' || r.account_id
    OR (r.state = 'failed') <> (f.id IS NOT NULL)
    OR (f.id IS NOT NULL AND f.amount_nanos <> r.amount_nanos)
""",
    ),
    (
        "refund",
        """
SELECT 'a top-up of ' || t.account_id || ' says ' || p.refunded_nanos || ' went back'
FROM market_payment p JOIN market_topup t ON t.topup_id = p.topup_id
LEFT JOIN (SELECT topup_id, SUM(amount_nanos) AS total FROM market_refund
    WHERE state <> 'failed' GROUP BY topup_id) r ON r.topup_id = p.topup_id
WHERE p.refunded_nanos <> COALESCE(r.total, 0) OR p.refunded_nanos > t.amount_nanos
""",
    ),
    (
        "chargeback",
        """
SELECT 'the chargeback ' || c.dispute_id || ' is not in the book as it is here'
FROM market_chargeback c LEFT JOIN (
    SELECT ref, SUM(CASE WHEN code = 'chargeback' THEN amount_nanos ELSE 0 END) AS cash,
        SUM(CASE WHEN code = 'chargeback_loss' THEN amount_nanos ELSE 0 END) AS loss,
        SUM(CASE WHEN code LIKE 'chargeback_won%' THEN amount_nanos ELSE 0 END) AS won
    FROM ledger_transfer WHERE code LIKE 'chargeback%' GROUP BY ref
) b ON b.ref = c.dispute_id
WHERE c.cash_nanos <> COALESCE(b.cash, 0) OR c.loss_nanos <> COALESCE(b.loss, 0)
    OR COALESCE(b.won, 0) <> CASE c.state WHEN 'won' THEN c.amount_nanos ELSE 0 END
""",
    ),
    (
        "recharge",
        """
SELECT 'a recharge of ' || r.account_id || ' is ' || r.state || ', its top-up is not'
FROM market_recharge r JOIN market_topup t ON t.topup_id = r.topup_id
WHERE (r.state = 'paid') <> (t.paid_at_s IS NOT NULL) OR r.amount_nanos <> t.amount_nanos
""",
    ),
    (
        "I13",
        """
SELECT f.kind || ' ' || f.subject || ': the book has ' || f.book_nanos || ', the processor '
    || f.processor_nanos
FROM market_finding f WHERE f.resolved_at_s IS NULL ORDER BY f.id
""",
    ),
)
ROWS_MAX = 20
"""Of one rule: enough to see what is wrong."""


def broken(session: Session) -> list[tuple[str, str]]:
    """(rule, row) of what does not hold."""
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    hexed = "lower(hex({}))" if on_sqlite else "encode({}, 'hex')"
    names = {"topup": hexed.format("t.topup_id"), "refund": hexed.format("r.refund_id")}
    found: list[tuple[str, str]] = []
    for rule, query in _RULES:
        rows = session.execute(text(query.format(**names))).scalars().fetchmany(ROWS_MAX)
        found += [(rule, str(row)) for row in rows]
    return found
