"""A small market for ledger tests: keys, leases, receipts, and a book with money in it.

Everything follows from seeds, so a failure can be read again.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session, create_all, open_database
from ledger.digested import broken_rows, digested
from ledger.receipts import ReceiptOutcome, accept_receipts, open_lane
from ledger.settle_window import mark_closed, settle_ready
from ledger.triggers import drop_statements
from protocol.envelope import seal
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.money import Work
from protocol.receipt import Receipt, cosign
from protocol.tensor import LINK_HASH_START
from tests import postgres
from tests.postgres import POSTGRESQL_URL
from tests.protocol.samples import LEASE, MARKET, NOW_S, PAYER, PROVIDER, digest

__all__ = [
    "BUYER",
    "FEE_BASIS_POINTS",
    "MARKET",
    "NOW_S",
    "ORIGIN",
    "OTHER",
    "PAYER",
    "PROCESSOR",
    "PROVIDER",
    "SETTLE_BY_S",
    "accept",
    "broken_digests",
    "buyer",
    "database",
    "fund",
    "id_of",
    "key_of",
    "lease_of",
    "leased_hold",
    "memory",
    "only_sqlite",
    "receipt_of",
    "receipt_record",
    "rolled_back",
    "scratch",
    "settled_and_open",
    "unguarded",
    "without_triggers",
]

only_sqlite = pytest.mark.skipif(bool(POSTGRESQL_URL), reason="breaks SQLite's tables by hand")

BUYER = "buyer-1"
ORIGIN = "piecework/test"
OTHER = KeyPair(b"o" * 32)
PROCESSOR = AccountRef(AccountCode.PROCESSOR_PENDING)
FEE_BASIS_POINTS = LEASE.fee_basis_points
SETTLE_BY_S = LEASE.settle_by_s
HOLD_NANOS = 200_000


@contextmanager
def database(engine_name: str = "", path: Path | None = None) -> Iterator[Engine]:
    """An empty ledger: SQLite in memory or at `path`, or a new database of PostgreSQL's."""
    on_postgresql = engine_name == "postgresql" or (not engine_name and POSTGRESQL_URL)
    if on_postgresql:
        url = postgres.fresh("ledger", create_all)
        engine = open_database(url)
        yield engine
        engine.dispose()
        postgres.drop(url)
    else:
        engine = open_database(f"sqlite:///{path}") if path else memory()
        create_all(engine)
        yield engine
        engine.dispose()


def memory() -> Engine:
    """An empty ledger in memory: one for a whole module, whose tests roll back."""
    engine = open_database("sqlite://")
    create_all(engine)
    return engine


@contextmanager
def rolled_back(engine: Engine) -> Iterator[Session]:
    """A transaction that leaves nothing behind: one engine serves many hypothesis examples."""
    with Session(engine) as session:
        session.begin()
        yield session
        session.rollback()


@contextmanager
def scratch() -> Iterator[Session]:
    """A ledger of one's own, gone afterwards."""
    with database() as engine, rolled_back(engine) as session:
        yield session


def without_triggers(session: Session, *tables: str) -> None:
    """Take away what guards these tables, as somebody with the database in hand can."""
    dialect = session.get_bind().dialect.name
    for table in tables:
        for statement in drop_statements(table, dialect):
            session.execute(text(statement))


def unguarded(engine: Engine) -> None:
    """SQLite's constraints are off from now on, for the one connection of a database in memory."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        for pragma in ("foreign_keys=OFF", "ignore_check_constraints=ON"):
            driver.execute(f"PRAGMA {pragma}")  # outside of a transaction, where it has an effect


def broken_digests(session: Session) -> list[str]:
    """Rows of any table that are not what their digest says."""
    # most of them have no row: one question for all is asked behind every test
    some = " UNION ALL ".join(
        f"SELECT '{table.name}' WHERE EXISTS (SELECT 1 FROM {table.name})" for table in digested()
    )
    names = set(session.execute(text(some)).scalars())
    found = (broken_rows(session, table) for table in digested() if table.name in names)
    return [detail for details in found for detail in details]


def settled_and_open(session: Session) -> None:
    """Two holds of those names, with a lease and a receipt for 100 nanos each."""
    settled, still_open = lease_of("a", "settled"), lease_of("b", "open")
    leased_hold(session, "settled", [settled])
    leased_hold(session, "open", [still_open])
    accept(session, receipt_of(settled, 1, 100, final=True))
    accept(session, receipt_of(still_open, 1, 100))
    mark_closed(session, id_of("settled"))
    settle_ready(session, now_s=NOW_S, limit=1)


def id_of(name: str) -> bytes:
    """16 bytes that a name stands for."""
    return hashlib.sha256(name.encode()).digest()[:16]


def key_of(name: str) -> KeyPair:
    return KeyPair(digest(name))


def buyer(name: str = BUYER) -> AccountRef:
    return AccountRef(AccountCode.BUYER_CASH, name)


def fund(session: Session, nanos: int, *, name: str = BUYER, ref: str = "topup") -> None:
    Book(session).transfer(
        PROCESSOR, buyer(name), nanos, code="topup", ref=f"{ref}-{name}", now_s=NOW_S
    )


def lease_of(name: str, hold: str, *, provider: KeyPair = PROVIDER, **changes: object) -> Lease:
    return dataclasses.replace(
        LEASE,
        lease_id=id_of(name),
        hold_id=id_of(hold),
        provider=provider.peer_id,
        **changes,
    )


def leased_hold(
    session: Session, hold: str, leases: Sequence[Lease], *, nanos: int = HOLD_NANOS
) -> None:
    """Fund, hold, and open a lane for each lease."""
    fund(session, nanos, ref=hold)
    Book(session).hold(id_of(hold), BUYER, nanos, now_s=NOW_S, expires_at_s=SETTLE_BY_S)
    for lease in leases:
        open_lane(session, seal(lease, MARKET).encode(), lease)


def receipt_record(
    lease: Lease, sequence: int, tokens: int, *, final: bool = False, **changes: object
) -> Receipt:
    """What an honest payer says after `tokens` decode steps."""
    work = Work(0, tokens * len(lease.span), tokens * 1024, tokens * 1024)
    link = lease.lease_id.hex()
    receipt = Receipt(
        lease_id=lease.lease_id,
        sequence=sequence,
        epoch=0,
        steps=tokens,
        tokens=tokens,
        work=work,
        amount_nanos=lease.amount_for(work),
        link_in_hash=digest(f"{link} in {tokens}") if tokens else LINK_HASH_START,
        link_out_hash=digest(f"{link} out {tokens}") if tokens else LINK_HASH_START,
        final=final,
    )
    return dataclasses.replace(receipt, **changes)


def receipt_of(
    lease: Lease,
    sequence: int,
    tokens: int,
    *,
    provider: KeyPair = PROVIDER,
    payer: KeyPair = PAYER,
    final: bool = False,
    **changes: object,
) -> bytes:
    """The same, signed by the payer and co-signed by the provider."""
    record = receipt_record(lease, sequence, tokens, final=final, **changes)
    return cosign(seal(record, payer).encode(), provider).encode()


def accept(
    session: Session, *batch: bytes, provider: KeyPair = PROVIDER, now_s: int = NOW_S
) -> list[ReceiptOutcome]:
    return accept_receipts(session, batch, provider=provider.peer_id, now_s=now_s)
