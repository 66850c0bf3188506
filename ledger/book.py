"""The book: every movement of money, one row each, and the holds that come before a charge.

Nothing here commits; the caller owns the transaction. Limits are conditional updates, never
read-then-write, so that spend cannot pass a balance at any concurrency. The pattern of pending,
post and void follows TigerBeetle's two-phase transfers. Locks are taken in one order: holds, lanes,
turns (`ledger/turns.py`), accounts by name, the log's head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, and_, exists, insert, not_, or_, select, update

from ledger.accounts import AccountCode, AccountRef
from ledger.balances import Balance, Balances
from ledger.database import Session, metadata
from ledger.errors import HoldResolved, HoldUnknown, InsufficientFunds, LedgerError, Unbalanced
from ledger.models import (
    PARTS_PER_HOLD_MAX,
    HoldRow,
    LaneRow,
    TransferCode,
    TransferRow,
    TransferState,
)
from ledger.reserving import reserve_at_once
from ledger.resolving import Resolution, buyer_of, clearing_of, fee_of, hold_ref, resolve
from ledger.transfers import (
    check_amount,
    find_transfer,
    same_movement,
    transfer_values,
    write_transfers,
)
from protocol.lease import ID_BYTES
from protocol.money import Nanos

__all__ = ["Balance", "Book", "Resolution", "clearing_of", "fee_of"]

_HOLD = metadata.tables[HoldRow.__tablename__]
_LANE = metadata.tables[LaneRow.__tablename__]


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
        check_amount(amount_nanos)
        if debit == credit:
            raise Unbalanced(f"{debit} cannot pay itself.")
        self._balances.lock((debit, credit))
        if row := find_transfer(self._session, code, ref):
            return same_movement(row, debit, credit, amount_nanos)
        self._balances.debit(debit, amount_nanos)
        self._balances.add(credit, Balance(credits_posted=amount_nanos))
        return self._write(debit, credit, amount_nanos, code=code, ref=ref, now_s=now_s)

    def hold(
        self, hold_id: bytes, buyer: str, amount_nanos: Nanos, *, now_s: int, expires_at_s: int
    ) -> TransferRow:
        """Set the buyer's money aside before any work is done; idempotent by `hold_id`.

        Raises InsufficientFunds, or TransferConflict if the id is another hold's.
        """
        check_amount(amount_nanos)
        if len(hold_id) != ID_BYTES:
            raise LedgerError(f"A hold id has {ID_BYTES} bytes.")
        account, clearing = AccountRef(AccountCode.BUYER_CASH, buyer), clearing_of(hold_id)
        pending = _pending(account, hold_id, 0, amount_nanos, now_s, expires_at_s)
        hold = {
            "hold_id": hold_id,
            "buyer": buyer,
            "amount_nanos": amount_nanos,
            "parts": 1,
            "leased_nanos": 0,
            "settle_by_s": expires_at_s,
            "closed": False,
        }
        if reserve_at_once(self._session, account, clearing, pending, hold):
            return TransferRow(**pending)
        transfer, is_new = self._reserve(account, clearing, pending)
        if is_new:
            self._session.execute(insert(_HOLD), hold)
        return transfer

    def grow_hold(
        self, hold_id: bytes, part: int, amount_nanos: Nanos, *, now_s: int, expires_at_s: int
    ) -> TransferRow:
        """Set more aside under the same hold; idempotent by (`hold_id`, `part`).

        part: 1, 2, 3 … in order; `parts` says how many there are, the first one included.
        Raises HoldUnknown, HoldResolved, InsufficientFunds, LedgerError for a part out of order, or
        TransferConflict if the part is over another amount.
        """
        check_amount(amount_nanos)
        hold = self._find_hold(hold_id)
        if hold.charged_nanos is not None:
            raise HoldResolved(hold_id)
        if not 1 <= part <= min(hold.parts, PARTS_PER_HOLD_MAX - 1):
            raise LedgerError(
                f"The hold {hold_id.hex()} has {hold.parts} parts; {part} cannot be the next.",
                hint=f"Parts follow one another, up to {PARTS_PER_HOLD_MAX}.",
            )
        buyer = buyer_of(hold)
        pending = _pending(buyer, hold_id, part, amount_nanos, now_s, expires_at_s)
        transfer, is_new = self._reserve(buyer, clearing_of(hold_id), pending)
        if is_new:
            grown = update(_HOLD).where(_HOLD.c.hold_id == hold_id)
            self._session.execute(
                grown.values(
                    amount_nanos=hold.amount_nanos + amount_nanos,
                    parts=part + 1,
                    settle_by_s=max(hold.settle_by_s, expires_at_s),
                )
            )
        return transfer

    def parts(self, hold_id: bytes) -> int:
        """How many parts the hold has: the number of its next one. Raises HoldUnknown."""
        return int(self._find_hold(hold_id).parts)

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
        hold = self._find_hold(hold_id)
        resolve(self._session, [Resolution(hold, charged_nanos, credits)], now_s=now_s)

    def resolve_all(
        self,
        resolutions: Sequence[Resolution],
        *,
        now_s: int,
        beside: Sequence[AccountRef] = (),
    ) -> None:
        """As `post_hold` for each, together; the caller has locked the holds' rows.

        `beside`: accounts that the caller books on afterwards, locked with the others.
        """
        resolve(self._session, resolutions, now_s=now_s, beside=beside)

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
        resolve(self._session, [Resolution(hold, 0)], now_s=now_s)

    def balance(self, account: AccountRef) -> Balance:
        """The account's sums; all zero if nothing ever moved there."""
        return self._balances.of(account)

    def totals(self) -> dict[AccountCode, Balance]:
        """Sums over all accounts of each code, for every code."""
        return self._balances.totals()

    def lock(self, accounts: Sequence[AccountRef]) -> None:
        """Lock at once what several postings will touch, so that two batches cannot deadlock."""
        self._balances.lock(accounts)

    def _reserve(
        self, account: AccountRef, clearing: AccountRef, pending: Mapping[str, Any]
    ) -> tuple[TransferRow, bool]:
        """The pending transfer of one part, and whether it is new."""
        amount: Nanos = pending["amount_nanos"]
        # the update takes the account's row: who asks for the same hold meanwhile waits here
        reserved = self._balances.reserve(account, amount)
        if row := find_transfer(self._session, TransferCode.HOLD, pending["ref"]):
            if reserved:
                self._balances.add(account, Balance(debits_pending=-amount))
            return same_movement(row, account, clearing, amount), False
        if not reserved:
            available = self._balances.of(account).available_nanos
            raise InsufficientFunds(account.name, amount, available)
        self._balances.add(clearing, Balance(credits_pending=amount))
        write_transfers(self._session, [pending])
        return TransferRow(**pending), True

    def _write(
        self, debit: AccountRef, credit: AccountRef, amount: Nanos, **more: Any
    ) -> TransferRow:
        values = transfer_values(debit, credit, amount, **more)
        write_transfers(self._session, [values])
        return TransferRow(**values)

    def _find_hold(self, hold_id: bytes) -> Row[Any]:
        query = select(_HOLD).where(_HOLD.c.hold_id == hold_id).with_for_update(key_share=True)
        row = self._session.execute(query).one_or_none()
        if row is None:
            raise HoldUnknown(hold_id)
        return row


def _pending(
    buyer: AccountRef, hold_id: bytes, part: int, amount: Nanos, now_s: int, expires_at_s: int
) -> dict[str, Any]:
    """The transfer that sets one part of a hold aside."""
    return transfer_values(
        buyer,
        clearing_of(hold_id),
        amount,
        state=TransferState.PENDING,
        code=TransferCode.HOLD,
        ref=hold_ref(hold_id, part),
        now_s=now_s,
        expires_at_s=expires_at_s,
    )
