"""The balances kept beside the transfers: conditional updates on account rows, and reading them.

Only `book.py` writes here, in the same transaction as the transfer a change belongs to.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, not_, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.sql import Executable

from ledger.accounts import AccountCode, AccountRef
from ledger.bulk import add_to_rows
from ledger.database import Session, insert_missing, metadata
from ledger.errors import InsufficientFunds
from ledger.models import AccountRow
from protocol.money import Nanos

__all__ = ["Balance", "Balances", "changed_rows"]

_ACCOUNT = metadata.tables[AccountRow.__tablename__]
_COLUMNS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


@dataclass(frozen=True, slots=True)
class Balance:
    """The four sums of one account, or of all accounts of one code. All in nanos."""

    debits_pending: Nanos = 0
    debits_posted: Nanos = 0
    credits_pending: Nanos = 0
    credits_posted: Nanos = 0

    def __add__(self, other: "Balance") -> "Balance":
        return Balance(
            self.debits_pending + other.debits_pending,
            self.debits_posted + other.debits_posted,
            self.credits_pending + other.credits_pending,
            self.credits_posted + other.credits_posted,
        )

    @property
    def posted_nanos(self) -> Nanos:
        """What is there, holds included."""
        return self.credits_posted - self.debits_posted

    @property
    def available_nanos(self) -> Nanos:
        """What may be spent now: posted less what is held."""
        return self.posted_nanos - self.debits_pending


class Balances:
    """The account rows, seen from one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def lock(self, accounts: Sequence[AccountRef]) -> None:
        """Create what is missing and take the row locks in one order, so that none deadlock.

        On SQLite the transaction began IMMEDIATE and holds the only write lock already.
        """
        names = sorted({account.name for account in accounts})
        query = (
            select(_ACCOUNT.c.name)
            .where(_ACCOUNT.c.name.in_(names))
            .order_by(_ACCOUNT.c.name)
            # not FOR UPDATE: rows that refer to the account may be written beside it
            .with_for_update(key_share=True)
        )
        found = set(self._session.execute(query).scalars())
        missing = sorted({account for account in accounts if account.name not in found})
        if missing:
            insert_missing(self._session, _ACCOUNT, [_empty(account) for account in missing])
            self._session.execute(query)

    def reserve(self, account: AccountRef, amount: Nanos) -> bool:
        """Add to pending debits if the account has it at this very moment; False if it has not.

        Takes the row's lock where it succeeds, as `lock` would.
        """
        return self._debit(account, amount, _ACCOUNT.c.debits_pending)

    def debit(self, account: AccountRef, amount: Nanos) -> None:
        """Add to posted debits if the account has it at this very moment, else raise."""
        if not self._debit(account, amount, _ACCOUNT.c.debits_posted):
            raise InsufficientFunds(account.name, amount, self.of(account).available_nanos)

    def add(self, account: AccountRef, change: Balance) -> None:
        """Add to the sums without asking the limit; the table's CHECK still holds it.

        Makes the account if nothing ever moved there.
        """
        values = {
            name: _ACCOUNT.c[name] + getattr(change, name)
            for name in _COLUMNS
            if getattr(change, name)
        }
        statement = update(_ACCOUNT).where(_ACCOUNT.c.name == account.name).values(values)
        if changed_rows(self._session, statement) != 1:
            insert_missing(self._session, _ACCOUNT, [_empty(account)])
            changed = changed_rows(self._session, statement)
            assert changed == 1, "it was made a moment ago"

    def add_all(self, changes: Mapping[AccountRef, Balance]) -> None:
        """Add to the sums of many accounts in one statement; `lock` has made and locked them."""
        rows = [
            {"name": account.name, **dataclasses.asdict(change)}
            for account, change in sorted(changes.items())
        ]
        add_to_rows(self._session, _ACCOUNT, "name", rows)

    def of(self, account: AccountRef) -> Balance:
        query = select(*(_ACCOUNT.c[name] for name in _COLUMNS))
        row = self._session.execute(query.where(_ACCOUNT.c.name == account.name)).one_or_none()
        return Balance(*row) if row else Balance()

    def totals(self) -> dict[AccountCode, Balance]:
        sums = (func.sum(_ACCOUNT.c[name]) for name in _COLUMNS)
        rows = self._session.execute(select(_ACCOUNT.c.code, *sums).group_by(_ACCOUNT.c.code))
        # PostgreSQL sums BIGINT as NUMERIC, which arrives as Decimal
        found = {row[0]: Balance(*(int(total) for total in row[1:])) for row in rows}
        return {code: found.get(code.value, Balance()) for code in AccountCode}

    def _debit(self, account: AccountRef, amount: Nanos, column: ColumnElement[int]) -> bool:
        spent = _ACCOUNT.c.debits_pending + _ACCOUNT.c.debits_posted + amount
        has_room = or_(not_(_ACCOUNT.c.no_overdraft), spent <= _ACCOUNT.c.credits_posted)
        statement = (
            update(_ACCOUNT)
            .where(_ACCOUNT.c.name == account.name, has_room)
            .values({column: column + amount})
        )
        return changed_rows(self._session, statement) == 1


def changed_rows(session: Session, statement: Executable) -> int:
    """Run an UPDATE and say how many rows it found."""
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount


def _empty(account: AccountRef) -> Mapping[str, Any]:
    return {
        "name": account.name,
        "code": account.code.value,
        "owner": account.owner,
        "no_overdraft": account.code.no_overdraft,
        **dict.fromkeys(_COLUMNS, 0),
    }
