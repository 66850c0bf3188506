"""The book: every movement of money, one row each, and the holds that come before a charge.

Nothing here commits; the caller owns the transaction. Limits are conditional updates, never
read-then-write, so that spend cannot pass a balance at any concurrency. The pattern of pending,
post and void follows TigerBeetle's two-phase transfers.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, exists, insert, not_, or_, select, update

from ledger.accounts import AccountCode, AccountRef
from ledger.balances import Balance, Balances, changed_rows
from ledger.database import Session, metadata
from ledger.errors import (
    HoldResolved,
    HoldUnknown,
    InsufficientFunds,
    LedgerError,
    TransferConflict,
    Unbalanced,
)
from ledger.models import (
    AMOUNT_NANOS_MAX,
    HoldRow,
    LaneRow,
    TransferCode,
    TransferRow,
    TransferState,
)
from protocol.lease import ID_BYTES
from protocol.money import Nanos

__all__ = ["CLEARING", "Balance", "Book"]

_TRANSFER = metadata.tables[TransferRow.__tablename__]
_HOLD = metadata.tables[HoldRow.__tablename__]
_LANE = metadata.tables[LaneRow.__tablename__]

CLEARING = AccountRef(AccountCode.CLEARING_SETTLE)
"""Every settled nano passes here; its posted balance is zero again at each commit."""


class Book:
    """Movements and holds within one session's transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._balances = Balances(session)

    def transfer(
        self,
        debit: AccountRef,
        credit: AccountRef,
        amount_nanos: Nanos,
        *,
        code: str,
        ref: str,
        now_s: int,
    ) -> TransferRow:
        """Move `amount_nanos` once; the same (code, ref) again gives the same row.

        Raises InsufficientFunds, or TransferConflict if (code, ref) was another movement.
        """
        _check_amount(amount_nanos)
        if debit == credit:
            raise Unbalanced(f"{debit} cannot pay itself.")
        self._balances.lock((debit, credit))
        if row := self._find(code, ref):
            return _same_movement(row, debit, credit, amount_nanos)
        self._balances.debit(debit, amount_nanos)
        self._balances.add(credit, Balance(credits_posted=amount_nanos))
        return self._write(debit, credit, amount_nanos, code=code, ref=ref, now_s=now_s)

    def hold(
        self, hold_id: bytes, buyer: str, amount_nanos: Nanos, *, now_s: int, expires_at_s: int
    ) -> TransferRow:
        """Set the buyer's money aside before any work is done; idempotent by `hold_id`.

        Raises InsufficientFunds, or TransferConflict if the id is another hold's.
        """
        _check_amount(amount_nanos)
        if len(hold_id) != ID_BYTES:
            raise LedgerError(f"A hold id has {ID_BYTES} bytes.")
        account = AccountRef(AccountCode.BUYER_CASH, buyer)
        self._balances.lock((account, CLEARING))
        if row := self._find(TransferCode.HOLD, hold_id.hex()):
            return _same_movement(row, account, CLEARING, amount_nanos)
        self._balances.reserve(account, amount_nanos)
        self._balances.add(CLEARING, Balance(credits_pending=amount_nanos))
        transfer = self._write(
            account,
            CLEARING,
            amount_nanos,
            state=TransferState.PENDING,
            code=TransferCode.HOLD,
            ref=hold_id.hex(),
            now_s=now_s,
            expires_at_s=expires_at_s,
        )
        values = {
            "hold_id": hold_id,
            "transfer_id": transfer.id,
            "buyer": buyer,
            "amount_nanos": amount_nanos,
            "leased_nanos": 0,
            "settle_by_s": expires_at_s,
            "closed": False,
        }
        self._session.execute(insert(_HOLD), values)
        return transfer

    def post_hold(
        self,
        hold_id: bytes,
        charged_nanos: Nanos,
        credits: Sequence[tuple[AccountRef, Nanos]],  # noqa: A002 - the word of the trade
        *,
        now_s: int,
    ) -> None:
        """Charge the buyer and credit everyone; the rest of the hold goes back. At most once.

        Σ credits must be `charged_nanos`, else Unbalanced. A charge of 0 releases the hold.
        Raises HoldUnknown, HoldResolved, or InsufficientFunds above the hold's amount.
        """
        if any(type(amount) is not int or amount < 0 for _, amount in credits):
            raise Unbalanced("A credit is not a whole amount of at least 0.")
        if sum(amount for _, amount in credits) != charged_nanos:
            raise Unbalanced(f"The credits do not sum to the charge of {charged_nanos} nanos.")
        hold = self._find_hold(hold_id)
        if hold.charged_nanos is not None:
            raise HoldResolved(hold_id)
        if charged_nanos > hold.amount_nanos:
            raise InsufficientFunds(f"hold {hold_id.hex()}", charged_nanos, hold.amount_nanos)
        legs = [(account, amount) for account, amount in credits if amount]
        self._balances.lock((_buyer(hold), CLEARING, *(account for account, _ in legs)))
        self._resolve(hold, charged_nanos, now_s=now_s)
        if legs:
            self._write_legs(hold_id.hex(), legs, now_s=now_s)

    def release(self, hold_id: bytes, *, now_s: int) -> None:
        """Give the whole hold back to the buyer; again is no error.

        Refused with LedgerError while a lease under it may still earn: providers work on the
        strength of it. Raises HoldUnknown, or HoldResolved if it was posted.
        """
        hold = self._find_hold(hold_id)
        if hold.charged_nanos == 0:
            return
        if hold.charged_nanos is not None:
            raise HoldResolved(hold_id)
        may_earn = and_(not_(_LANE.c.final), _LANE.c.settle_by_s >= now_s)
        live = exists().where(
            _LANE.c.hold_id == hold_id, or_(_LANE.c.amount_received_nanos > 0, may_earn)
        )
        if self._session.execute(select(live)).scalar_one():
            raise LedgerError(
                f"The hold {hold_id.hex()} backs leases that may still earn.",
                hint="Mark it closed; settlement releases what was not earned.",
            )
        self._balances.lock((_buyer(hold), CLEARING))
        self._resolve(hold, 0, now_s=now_s)

    def balance(self, account: AccountRef) -> Balance:
        """The account's sums; all zero if nothing ever moved there."""
        return self._balances.of(account)

    def totals(self) -> dict[AccountCode, Balance]:
        """Sums over all accounts of each code, for every code."""
        return self._balances.totals()

    def lock(self, accounts: Sequence[AccountRef]) -> None:
        """Lock at once what several postings will touch, so that two batches cannot deadlock."""
        self._balances.lock(accounts)

    def _resolve(self, hold: Row[Any], charged: Nanos, *, now_s: int) -> None:
        """Write the one row that resolves the hold, and take it off the pending balances."""
        buyer, held = _buyer(hold), hold.amount_nanos
        statement = (
            update(_HOLD)
            .where(_HOLD.c.hold_id == hold.hold_id, _HOLD.c.charged_nanos.is_(None))
            .values(charged_nanos=charged)
        )
        if changed_rows(self._session, statement) != 1:
            raise HoldResolved(hold.hold_id)
        lanes = update(_LANE).where(_LANE.c.hold_id == hold.hold_id)
        self._session.execute(
            lanes.values(settled=True, amount_settled_nanos=_LANE.c.amount_received_nanos)
        )
        self._write(
            buyer,
            CLEARING,
            charged or held,
            state=TransferState.POST if charged else TransferState.VOID,
            code=TransferCode.POST_HOLD if charged else TransferCode.RELEASE_HOLD,
            ref=hold.hold_id.hex(),
            now_s=now_s,
            pending_id=hold.transfer_id,
        )
        self._balances.add(buyer, Balance(debits_pending=-held, debits_posted=charged))
        self._balances.add(CLEARING, Balance(credits_pending=-held, credits_posted=charged))

    def _write_legs(
        self, hold_hex: str, legs: Sequence[tuple[AccountRef, Nanos]], *, now_s: int
    ) -> None:
        rows = [
            {
                "debit": CLEARING.name,
                "credit": account.name,
                "amount_nanos": amount,
                "state": TransferState.POSTED.value,
                "code": TransferCode.SETTLE.value,
                "ref": f"{hold_hex}:{position}",
                "created_at_s": now_s,
            }
            for position, (account, amount) in enumerate(legs)
        ]
        self._session.execute(insert(_TRANSFER), rows)
        self._balances.credit_all(legs)
        self._balances.add(CLEARING, Balance(debits_posted=sum(amount for _, amount in legs)))

    def _write(
        self,
        debit: AccountRef,
        credit: AccountRef,
        amount: Nanos,
        *,
        code: str,
        ref: str,
        now_s: int,
        state: TransferState = TransferState.POSTED,
        pending_id: int | None = None,
        expires_at_s: int | None = None,
    ) -> TransferRow:
        values: dict[str, Any] = {
            "debit": debit.name,
            "credit": credit.name,
            "amount_nanos": amount,
            "state": state.value,
            "pending_id": pending_id,
            "code": str(code),
            "ref": ref,
            "created_at_s": now_s,
            "expires_at_s": expires_at_s,
        }
        statement = insert(_TRANSFER).returning(_TRANSFER.c.id)
        row_id = self._session.execute(statement, values).scalar_one()
        return TransferRow(id=row_id, **values)

    def _find(self, code: str, ref: str) -> TransferRow | None:
        query = select(_TRANSFER).where(_TRANSFER.c.code == str(code), _TRANSFER.c.ref == ref)
        row = self._session.execute(query).one_or_none()
        return TransferRow(**row._mapping) if row else None

    def _find_hold(self, hold_id: bytes) -> Row[Any]:
        query = select(_HOLD).where(_HOLD.c.hold_id == hold_id).with_for_update()
        row = self._session.execute(query).one_or_none()
        if row is None:
            raise HoldUnknown(hold_id)
        return row


def _check_amount(amount: Nanos) -> None:
    # a float or a bool here is a bug; `type` is exact on purpose
    if type(amount) is not int or not 0 < amount <= AMOUNT_NANOS_MAX:
        raise Unbalanced(f"{amount!r} is not a whole amount in (0, {AMOUNT_NANOS_MAX}] nanos.")


def _same_movement(
    row: TransferRow, debit: AccountRef, credit: AccountRef, amount: Nanos
) -> TransferRow:
    if (row.debit, row.credit, row.amount_nanos) != (debit.name, credit.name, amount):
        raise TransferConflict(row.code, row.ref)
    return row


def _buyer(hold: Row[Any]) -> AccountRef:
    return AccountRef(AccountCode.BUYER_CASH, hold.buyer)
