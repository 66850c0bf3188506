"""Queries of `keys`."""

from collections.abc import Mapping, Sequence

from sqlalchemy import case, delete, func, or_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from ledger.models import HoldRow
from marketplace.keys.models import BudgetRow, KeyHoldRow, KeyRow, NonceRow

__all__ = ["BudgetRepository", "KeyRepository", "NonceRepository"]


class KeyRepository:
    """API keys."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: KeyRow) -> None:
        self._session.add(row)
        self._session.flush()

    def find(self, key_id: str) -> KeyRow | None:
        return self._session.get(KeyRow, key_id)

    def of_account(self, account_id: str) -> Sequence[KeyRow]:
        """Oldest first."""
        query = select(KeyRow).where(KeyRow.account_id == account_id)
        return self._session.exec(query.order_by(col(KeyRow.created_at_s), KeyRow.key_id)).all()

    def of_account_with_budgets(self, account_id: str) -> Sequence[tuple[KeyRow, BudgetRow | None]]:
        """Oldest first, each with what it may spend, if that is limited."""
        query = (
            select(KeyRow, BudgetRow)
            .join(BudgetRow, col(BudgetRow.budget_id) == col(KeyRow.budget_id), isouter=True)
            .where(KeyRow.account_id == account_id)
            .order_by(col(KeyRow.created_at_s), KeyRow.key_id)
        )
        return self._session.exec(query).all()

    def own(self, account_id: str, key_id: str) -> KeyRow | None:
        """The account's own key, held until the transaction ends."""
        row = self._session.get(KeyRow, key_id, with_for_update=True)
        return row if row is not None and row.account_id == account_id else None

    def save(self, row: KeyRow) -> None:
        self._session.add(row)
        self._session.flush()

    def revoke(self, account_id: str, key_id: str, now_s: int) -> bool:
        """Whether the account has such a key; one that was revoked before stays so."""
        row = self._session.get(KeyRow, key_id)
        if row is None or row.account_id != account_id:
            return False
        if row.revoked_at_s is None:
            row.revoked_at_s = now_s
            self._session.flush()
        return True

    def note_uses(self, uses: Mapping[str, int]) -> None:
        """Write when each key (by id) was last used; in one order, for others write too."""
        for key_id, used_at_s in sorted(uses.items()):
            self._session.execute(
                update(KeyRow)
                .where(col(KeyRow.key_id) == key_id)
                .values(last_used_at_s=used_at_s, row_digest=KeyRow.row_digest)
            )


class BudgetRepository:
    """Budgets of keys, and the holds that take of them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: BudgetRow) -> None:
        self._session.add(row)
        self._session.flush()

    def lock(self, budget_id: str) -> BudgetRow:
        """As the database has it now, held until the transaction ends."""
        return self._session.get_one(
            BudgetRow, budget_id, populate_existing=True, with_for_update=True
        )

    def begin_period(self, budget_id: str, start_s: int) -> None:
        """Nothing is spent or reserved of a new period. Periods only go forward."""
        self._session.execute(
            update(BudgetRow)
            .where(col(BudgetRow.budget_id) == budget_id, col(BudgetRow.period_start_s) < start_s)
            .values(period_start_s=start_s, reserved_nanos=0, spent_nanos=0)
        )

    def take(self, budget_id: str, amount_nanos: int, *, opens: bool) -> bool:
        """Reserve an amount, and open a session; False where a limit does not allow it."""
        reserved, spent = col(BudgetRow.reserved_nanos), col(BudgetRow.spent_nanos)
        limit, opened = col(BudgetRow.limit_nanos), col(BudgetRow.open_sessions)
        query = update(BudgetRow).where(
            col(BudgetRow.budget_id) == budget_id,
            or_(limit.is_(None), reserved + spent + amount_nanos <= limit),
        )
        if opens:
            parallel_max = col(BudgetRow.parallel_max)
            query = query.where(or_(parallel_max.is_(None), opened < parallel_max))
        query = query.values(
            reserved_nanos=reserved + amount_nanos,
            open_sessions=opened + int(opens),
            row_digest=BudgetRow.row_digest,
        )
        return bool(self._session.execute(query.returning(col(BudgetRow.budget_id))).first())

    def settle(
        self, budget_id: str, period_start_s: int, amount_nanos: int, charged_nanos: int
    ) -> None:
        """A hold of the period came to a charge; one of a period that is over changes nothing."""
        self._session.execute(
            update(BudgetRow)
            .where(
                col(BudgetRow.budget_id) == budget_id,
                col(BudgetRow.period_start_s) == period_start_s,
            )
            .values(
                reserved_nanos=col(BudgetRow.reserved_nanos) - amount_nanos,
                spent_nanos=col(BudgetRow.spent_nanos) + charged_nanos,
                row_digest=BudgetRow.row_digest,
            )
        )

    def close_session(self, budget_id: str) -> None:
        self._session.execute(
            update(BudgetRow)
            .where(col(BudgetRow.budget_id) == budget_id)
            .values(open_sessions=col(BudgetRow.open_sessions) - 1, row_digest=BudgetRow.row_digest)
        )

    def hold(self, hold_id: bytes) -> KeyHoldRow | None:
        """As the database has it now; not held."""
        return self._session.get(KeyHoldRow, hold_id, populate_existing=True)

    def add_hold(self, row: KeyHoldRow) -> None:
        self._session.add(row)
        self._session.flush()

    def save(self, row: KeyHoldRow) -> None:
        self.add_hold(row)

    def close_hold(self, hold_id: bytes) -> str | None:
        """The budget that it counted in as open, once."""
        query = (
            update(KeyHoldRow)
            .where(col(KeyHoldRow.hold_id) == hold_id, col(KeyHoldRow.is_open))
            .values(is_open=False)
        )
        taken = self._session.execute(query.returning(col(KeyHoldRow.budget_id))).first()
        return None if taken is None else taken[0]

    def settle_hold(self, hold_id: bytes, charged_nanos: int) -> KeyHoldRow | None:
        """The hold with its charge, once; None where there is none or it was settled before."""
        query = (
            update(KeyHoldRow)
            .where(col(KeyHoldRow.hold_id) == hold_id, col(KeyHoldRow.charged_nanos).is_(None))
            .values(charged_nanos=charged_nanos)
        )
        return self._session.scalars(query.returning(KeyHoldRow)).one_or_none()

    def settled_in_ledger(self, limit: int, budget_id: str | None) -> Sequence[tuple[bytes, int]]:
        """Holds that the ledger has settled and the keys have not, with their charges; by budget,
        so that all who settle lock budgets in one order."""
        query = (
            select(KeyHoldRow.hold_id, HoldRow.charged_nanos)
            .join(HoldRow, col(HoldRow.hold_id) == col(KeyHoldRow.hold_id))
            .where(col(KeyHoldRow.charged_nanos).is_(None), col(HoldRow.charged_nanos).is_not(None))
            .order_by(col(KeyHoldRow.budget_id), col(KeyHoldRow.hold_id))
            .limit(limit)
        )
        if budget_id is not None:
            query = query.where(KeyHoldRow.budget_id == budget_id)
        found = self._session.exec(query).all()
        return [(hold_id, charged) for hold_id, charged in found if charged is not None]

    def unlike_their_holds(self, limit: int) -> Sequence[str]:
        """Ids of budgets whose running sums are not those of their holds."""
        held, of_period = (
            col(KeyHoldRow.budget_id),
            (col(KeyHoldRow.period_start_s) == col(BudgetRow.period_start_s)),
        )
        charged = col(KeyHoldRow.charged_nanos)
        reserved = case((of_period & charged.is_(None), KeyHoldRow.amount_nanos), else_=0)
        spent = case((of_period, func.coalesce(charged, 0)), else_=0)
        opened = case((col(KeyHoldRow.is_open), 1), else_=0)
        query = (
            select(BudgetRow.budget_id)
            .join(KeyHoldRow, held == col(BudgetRow.budget_id), isouter=True)
            .group_by(col(BudgetRow.budget_id))
            .having(
                or_(
                    func.sum(reserved) != col(BudgetRow.reserved_nanos),
                    func.sum(spent) != col(BudgetRow.spent_nanos),
                    func.sum(opened) != col(BudgetRow.open_sessions),
                )
            )
        )
        return self._session.exec(query.order_by(BudgetRow.budget_id).limit(limit)).all()


class NonceRepository:
    """Nonces of node requests."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def remember(self, row: NonceRow) -> bool:
        """False if it was there: decided by the primary key, so at any concurrency once."""
        postgres = self._session.get_bind().dialect.name == "postgresql"
        insert = postgresql.insert if postgres else sqlite.insert
        statement = insert(NonceRow).values(row.model_dump()).on_conflict_do_nothing()
        # what came back and not the row count, which drivers do not tell for an insert
        taken = self._session.execute(statement.returning(col(NonceRow.nonce)))
        return taken.scalar_one_or_none() is not None

    def forget_expired(self, now_s: int) -> None:
        self._session.execute(delete(NonceRow).where(col(NonceRow.expires_at_s) <= now_s))
