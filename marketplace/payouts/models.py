"""Tables of `payouts`. Money is nanos, and whole cents where the processor is told."""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Index, text
from sqlmodel import Field

from ledger.database import BigInt, BigIntOrNone, NanosColumn, RowId
from ledger.digested import DigestedBase
from marketplace.payments.processor import NANOS_PER_CENT
from marketplace.payouts.states import OPEN, PayoutState

__all__ = [
    "AlarmRow",
    "HeldRow",
    "OutboxRow",
    "PayoutRow",
    "PayoutTermsRow",
    "RecipientRow",
    "ReleaseRow",
]


def _states(states: frozenset[PayoutState] | type[PayoutState]) -> str:
    return ", ".join(f"'{state.value}'" for state in PayoutState if state in states)


_IS_OPEN = text(f"state IN ({_states(OPEN)})")


class RecipientRow(DigestedBase, table=True):
    """Where an account's money goes: its account at the processor, as it was last seen."""

    __tablename__: ClassVar[str] = "market_recipient"
    __table_args__ = (CheckConstraint("length(country) = 2", name="country"),)

    account_id: str = Field(
        primary_key=True, max_length=32, foreign_key="market_account.account_id"
    )
    recipient: str = Field(max_length=255, unique=True)
    country: str = Field(max_length=2)
    """Of ISO 3166-1, in capitals; the processor has it with the recipient."""
    payouts_enabled: bool = False
    missing: str = Field(default="", max_length=2048)
    """What the processor still asks for, with line breaks between."""
    created_at_s: BigInt
    checked_at_s: BigIntOrNone = None
    bank_paid_at_s: BigInt = 0
    """Time of the latest event that says the bank has the money."""
    bank_failed_at_s: BigInt = 0
    """Time of the latest event that says the bank sent it back."""


class PayoutTermsRow(DigestedBase, table=True):
    """When and from what amount an account is paid, and whether it is leaving."""

    __tablename__: ClassVar[str] = "market_payout_terms"
    __table_args__ = (
        CheckConstraint("schedule IN ('weekly', 'manual')", name="schedule"),
        CheckConstraint("minimum_cents > 0", name="minimum"),
    )

    account_id: str = Field(
        primary_key=True, max_length=32, foreign_key="market_account.account_id"
    )
    schedule: str = Field(max_length=8)
    minimum_cents: BigInt
    changed_at_s: BigInt
    exit_at_s: BigIntOrNone = None


class PayoutRow(DigestedBase, table=True):
    """One payout: reserved in the book, sent once, and what became of it."""

    __tablename__: ClassVar[str] = "market_payout"
    __table_args__ = (
        CheckConstraint("length(payout_id) = 16", name="payout_id"),
        CheckConstraint(f"state IN ({_states(PayoutState)})", name="state"),
        CheckConstraint("origin IN ('weekly', 'manual')", name="origin"),
        CheckConstraint("amount_cents > 0", name="cents"),
        CheckConstraint(f"amount_nanos = amount_cents * {NANOS_PER_CENT}", name="amount"),
        CheckConstraint("attempt >= 0", name="attempt"),
        CheckConstraint("reversed_cents BETWEEN 0 AND amount_cents", name="reversed"),
        # sent is what has a transfer; `failed` may be either
        CheckConstraint(
            "CASE WHEN state IN ('submitted', 'paid', 'reversed') THEN transfer_id IS NOT NULL"
            " WHEN state = 'failed' THEN 1 = 1 ELSE transfer_id IS NULL END",
            name="transfer",
        ),
        CheckConstraint(
            "state <> 'submitting' OR (attempt > 0 AND deadline_s IS NOT NULL)", name="deadline"
        ),
        Index(
            "uq_market_payout_open",
            "account_id",
            unique=True,
            sqlite_where=_IS_OPEN,
            postgresql_where=_IS_OPEN,
        ),
        Index(None, "account_id", "created_at_s"),
        Index(None, "state", "deadline_s"),
    )

    payout_id: bytes = Field(primary_key=True, max_length=16)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id")
    recipient: str = Field(max_length=255)
    """Where it goes; the account's recipient when the money was reserved."""
    origin: str = Field(max_length=8)
    amount_nanos: NanosColumn
    amount_cents: BigInt
    state: str = Field(max_length=12)
    reason: str = Field(default="", max_length=200)
    """A word for programs: why it failed, is held or was canceled."""
    attempt: BigInt = 0
    """Of the idempotency key; 0 before the first."""
    attempt_at_s: BigIntOrNone = None
    """When the key of this attempt was first to be used: the processor forgets it a day later."""
    deadline_s: BigIntOrNone = None
    """Of `submitting`: after it somebody else looks up what happened."""
    missed_at_s: BigIntOrNone = None
    """The key is too old to be used again, and a look-up then found nothing."""
    transfer_id: str | None = Field(default=None, max_length=255, unique=True)
    transfer_at_s: BigIntOrNone = None
    """When the processor made the transfer, by its clock."""
    reversed_cents: BigInt = 0
    created_at_s: BigInt
    changed_at_s: BigInt


class AlarmRow(DigestedBase, table=True):
    """Something about a payout that a person must see; the same alarm is raised once."""

    __tablename__: ClassVar[str] = "market_payout_alarm"
    __table_args__ = (
        Index("uq_market_payout_alarm_once", "payout_id", "kind", "attempt", unique=True),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=RowId)
    payout_id: bytes = Field(max_length=16, foreign_key="market_payout.payout_id")
    kind: str = Field(max_length=32)
    attempt: BigInt
    detail: str = Field(max_length=500)
    raised_at_s: BigInt
    seen_at_s: BigIntOrNone = None


class ReleaseRow(DigestedBase, table=True):
    """A machine's earnings of one period as they left PROVIDER_EARNED, and why some are held."""

    __tablename__: ClassVar[str] = "market_release"
    __table_args__ = (
        CheckConstraint("credited_nanos > 0", name="credited"),
        CheckConstraint("amount_nanos BETWEEN 0 AND credited_nanos", name="amount"),
        CheckConstraint(
            "payable_nanos >= 0 AND held_nanos >= 0 AND payable_nanos + held_nanos = amount_nanos",
            name="parts",
        ),
        Index(None, "account_id", "period_s"),
    )

    machine: str = Field(primary_key=True, max_length=64)
    """PeerId text."""
    period_s: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    """Start of the UTC day in which it was settled."""
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id")
    credited_nanos: NanosColumn
    """What settlement credited in the period; more than `amount_nanos` where a ruling took some."""
    amount_nanos: NanosColumn
    payable_nanos: NanosColumn
    held_nanos: NanosColumn
    reasons: str = Field(default="", max_length=200)
    """Of the held parts, with commas between."""
    until_s: BigIntOrNone = None
    """When the last held part is due; None where nothing is held."""
    released_at_s: BigInt


class HeldRow(DigestedBase, table=True):
    """One held part of a release, and when it was given back."""

    __tablename__: ClassVar[str] = "market_held"
    __table_args__ = (
        ForeignKeyConstraint(
            ["machine", "period_s"], ["market_release.machine", "market_release.period_s"]
        ),
        CheckConstraint("amount_nanos > 0", name="amount"),
        CheckConstraint("given_back_nanos BETWEEN 0 AND amount_nanos", name="given_back"),
        CheckConstraint(
            "(given_back_at_s IS NULL) = (given_back_nanos IS NULL)", name="given_back_at"
        ),
        Index(
            "ix_market_held_due",
            "until_s",
            sqlite_where=text("given_back_at_s IS NULL"),
            postgresql_where=text("given_back_at_s IS NULL"),
        ),
        Index(None, "account_id"),
    )

    machine: str = Field(primary_key=True, max_length=64)
    period_s: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    reason: str = Field(primary_key=True, max_length=16)
    buyer: str = Field(primary_key=True, max_length=32)
    """The linked buyer of whom an operator decides; "" for every other reason."""
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id")
    amount_nanos: NanosColumn
    until_s: BigInt
    given_back_at_s: BigIntOrNone = None
    given_back_nanos: BigIntOrNone = None
    """Less than the amount where a ruling took some of what was held."""


class OutboxRow(DigestedBase, table=True):
    """Something to do outside, written in the transaction that makes it necessary."""

    __tablename__: ClassVar[str] = "market_outbox"
    __table_args__ = (
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("done_at_s IS NULL OR dead_at_s IS NULL", name="one_end"),
        Index(
            "ix_market_outbox_due",
            "topic",
            "not_before_s",
            sqlite_where=text("done_at_s IS NULL AND dead_at_s IS NULL"),
            postgresql_where=text("done_at_s IS NULL AND dead_at_s IS NULL"),
        ),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=RowId)
    topic: str = Field(max_length=32)
    key: str = Field(max_length=160, unique=True)
    payload: str = Field(max_length=4096)
    created_at_s: BigInt
    not_before_s: BigInt
    attempts: BigInt = 0
    done_at_s: BigIntOrNone = None
    dead_at_s: BigIntOrNone = None
    """Given up after too many attempts; a person must look."""
    last_error: str = Field(default="", max_length=500)
