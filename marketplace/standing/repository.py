"""Queries of `standing`."""

from collections.abc import Collection, Sequence

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from ledger.accounts import AccountCode, AccountRef
from ledger.database import insert_missing, metadata
from ledger.models import TransferRow
from marketplace.accounts.models import BuyerRow
from marketplace.standing.models import (
    FingerprintRow,
    FreezeRow,
    LinkAllowedRow,
    VerificationRow,
)

__all__ = ["StandingRepository"]

CHARGEBACK_REASON = "chargeback"
"""A freeze whose reason begins so also counts as a chargeback: its loss may be wholly ours."""


class StandingRepository:
    """Freezes, fingerprints, and the history behind a tier."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def freeze(self, account_id: str, reason: str, now_s: int) -> None:
        row = {"account_id": account_id, "reason": reason, "frozen_at_s": now_s}
        insert_missing(self._session, metadata.tables[FreezeRow.__tablename__], [row])

    def lift(self, account_id: str, reason: str | None, now_s: int) -> int:
        """How many freezes were lifted: those of the reason, or all."""
        statement = (
            update(FreezeRow)
            .where(col(FreezeRow.account_id) == account_id, col(FreezeRow.lifted_at_s).is_(None))
            .values(lifted_at_s=now_s)
        )
        if reason is not None:
            statement = statement.where(col(FreezeRow.reason) == reason)
        return self._session.connection().execute(statement).rowcount

    def open_freezes(self, account_id: str) -> Sequence[FreezeRow]:
        """Oldest first."""
        query = select(FreezeRow).where(
            FreezeRow.account_id == account_id, col(FreezeRow.lifted_at_s).is_(None)
        )
        return self._session.exec(query.order_by(col(FreezeRow.id))).all()

    def note_fingerprint(self, account_id: str, kind: str, digest: bytes, now_s: int) -> None:
        seen = (
            update(FingerprintRow)
            .where(
                col(FingerprintRow.account_id) == account_id,
                col(FingerprintRow.kind) == kind,
                col(FingerprintRow.digest) == digest,
            )
            .values(last_seen_at_s=now_s)
        )
        if self._session.connection().execute(seen).rowcount:
            return
        row = {
            "account_id": account_id,
            "kind": kind,
            "digest": digest,
            "first_seen_at_s": now_s,
            "last_seen_at_s": now_s,
        }
        insert_missing(self._session, metadata.tables[FingerprintRow.__tablename__], [row])

    def sharing(self, account_id: str, limit: int) -> Sequence[tuple[str, bytes, str]]:
        """(kind, digest, other account) of everything the account has in common with others."""
        mine = (
            select(FingerprintRow.kind, FingerprintRow.digest)
            .where(FingerprintRow.account_id == account_id)
            .subquery()
        )
        query = (
            select(FingerprintRow.kind, FingerprintRow.digest, FingerprintRow.account_id)
            .join(
                mine,
                (col(FingerprintRow.kind) == mine.c.kind)
                & (col(FingerprintRow.digest) == mine.c.digest),
            )
            .where(FingerprintRow.account_id != account_id)
            .limit(limit)
        )
        return self._session.exec(query).all()

    def opened_at_s(self, account_id: str) -> int | None:
        row = self._session.get(BuyerRow, account_id)
        return None if row is None else row.created_at_s

    def is_verified(self, account_id: str) -> bool:
        return self._session.get(VerificationRow, account_id) is not None

    def verify(self, account_id: str, now_s: int) -> None:
        row = {"account_id": account_id, "verified_at_s": now_s}
        insert_missing(self._session, metadata.tables[VerificationRow.__tablename__], [row])

    def allow_link(self, provider: str, buyer: str, approval_id: str, now_s: int) -> None:
        row = {
            "provider_account": provider,
            "buyer_account": buyer,
            "approval_id": approval_id,
            "allowed_at_s": now_s,
        }
        insert_missing(self._session, metadata.tables[LinkAllowedRow.__tablename__], [row])

    def allowed_links(self, provider: str) -> Collection[str]:
        query = select(LinkAllowedRow.buyer_account).where(
            LinkAllowedRow.provider_account == provider
        )
        return frozenset(self._session.exec(query).all())

    def paid_nanos(self, account_id: str, before_s: int) -> int:
        """What the account had topped up and been paid out by then."""
        cash = AccountRef(AccountCode.BUYER_CASH, account_id).name
        transit = AccountRef(AccountCode.PROVIDER_IN_TRANSIT, account_id).name
        paid_in = (col(TransferRow.credit) == cash) & (col(TransferRow.code) == "topup")
        paid_out = (col(TransferRow.debit) == transit) & (col(TransferRow.code) == "payout_sent")
        query = select(func.coalesce(func.sum(TransferRow.amount_nanos), 0))
        # two queries: each finds its account by the index of one side
        return sum(
            int(self._session.exec(query.where(side, TransferRow.created_at_s <= before_s)).one())
            for side in (paid_in, paid_out)
        )

    def chargebacks_since(self, account_id: str, since_s: int) -> int:
        """Chargebacks taken from the account's cash, and freezes because of one."""
        cash = AccountRef(AccountCode.BUYER_CASH, account_id).name
        taken = select(func.count()).where(
            TransferRow.debit == cash,
            TransferRow.code == "chargeback",
            TransferRow.created_at_s >= since_s,
        )
        frozen = select(func.count()).where(
            FreezeRow.account_id == account_id,
            col(FreezeRow.reason).startswith(CHARGEBACK_REASON),
            FreezeRow.frozen_at_s >= since_s,
        )
        return self._session.exec(taken).one() + self._session.exec(frozen).one()
