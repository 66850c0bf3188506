"""A new hold in one round trip: both accounts, the transfer and the hold, all or nothing.

On PostgreSQL, where each statement is a journey to the server and back with the buyer's row locked
meanwhile. On SQLite there is no journey, and `book.py` goes step by step, as it does here wherever
something is not as it mostly is.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, TextClause, text

from ledger.accounts import AccountRef
from ledger.balances import Balance, Balances
from ledger.bulk import type_of
from ledger.database import Session, metadata
from ledger.models import AccountRow, HoldRow, TransferRow
from protocol.money import Nanos

__all__ = ["reserve_at_once"]

_ACCOUNT = AccountRow.__tablename__
_HOLD = metadata.tables[HoldRow.__tablename__]
_TRANSFER = metadata.tables[TransferRow.__tablename__]

HOLD_COLUMNS = (
    "hold_id",
    "buyer",
    "amount_nanos",
    "parts",
    "leased_nanos",
    "settle_by_s",
    "closed",
)


def reserve_at_once(
    session: Session,
    buyer: AccountRef,
    clearing: AccountRef,
    transfer: Mapping[str, Any],
    hold: Mapping[str, Any],
) -> bool:
    """Whether the hold now stands, with its pending `transfer` of `hold["amount_nanos"]` nanos.

    False, and nothing has changed, where the buyer has not so much, where the transfer was written
    before, where the clearing account is not there yet, and on SQLite.
    """
    if session.get_bind().dialect.name != "postgresql":
        return False
    amount: Nanos = hold["amount_nanos"]
    values = {"amount": amount, "account": buyer.name, "clearing": clearing.name}
    values |= {f"t_{name}": value for name, value in transfer.items()}
    values |= {f"h_{name}": hold[name] for name in HOLD_COLUMNS}
    taken, cleared, written = session.execute(_STATEMENT, values).one()
    if written:
        return True
    balances = Balances(session)
    if taken:
        balances.add(buyer, Balance(debits_pending=-amount))
    if cleared:
        balances.add(clearing, Balance(credits_pending=-amount))
    return False


def _statement() -> TextClause:
    amount = "CAST(:amount AS BIGINT)"
    return text(f"""
    WITH taken AS (
        UPDATE {_ACCOUNT} SET debits_pending = debits_pending + {amount}
        WHERE name = :account AND (NOT no_overdraft
            OR debits_pending + debits_posted + {amount} <= credits_posted)
        RETURNING 1
    ), cleared AS (
        UPDATE {_ACCOUNT} SET credits_pending = credits_pending + {amount}
        WHERE name = :clearing AND EXISTS (SELECT FROM taken)
        RETURNING 1
    ), written AS (
        {_insert(_TRANSFER, tuple(_TRANSFER.c.keys()), "t")}
        WHERE EXISTS (SELECT FROM cleared)
        ON CONFLICT (id) DO NOTHING RETURNING 1
    ), held AS (
        {_insert(_HOLD, HOLD_COLUMNS, "h")}
        WHERE EXISTS (SELECT FROM written)
    )
    SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM cleared),
        (SELECT count(*) FROM written)
    """)


def _insert(table: Table, names: tuple[str, ...], prefix: str) -> str:
    """INSERT … SELECT of one row of parameters, `:prefix_name` each."""
    values = ", ".join(f"CAST(:{prefix}_{name} AS {type_of(table, name)})" for name in names)
    return f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {values}"


_STATEMENT = _statement()
