"""Resolving holds: every part of each is posted or voided, and who earned is credited. Set-based.

However many holds are resolved together, there is one INSERT of all transfers and one UPDATE each
of holds, lanes and accounts. Only `book.py` comes here; it has locked the hold rows.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from ledger.accounts import AccountCode, AccountRef
from ledger.balances import Balance, Balances
from ledger.bulk import update_rows
from ledger.database import Session, metadata
from ledger.errors import HoldResolved, InsufficientFunds, Unbalanced
from ledger.models import HoldRow, LaneRow, TransferCode, TransferRow, TransferState
from ledger.row_digest import shard_of, transfer_id
from ledger.transfers import transfer_values, write_transfers
from protocol.money import Nanos

__all__ = ["Resolution", "buyer_of", "clearing_of", "fee_of", "hold_ref", "resolve"]

_HOLD = metadata.tables[HoldRow.__tablename__]
_LANE = metadata.tables[LaneRow.__tablename__]
_TRANSFER = metadata.tables[TransferRow.__tablename__]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What is to become of one hold; its row as it was locked. charged = Σ credits."""

    hold: Row[Any]
    charged_nanos: Nanos
    credits: Sequence[tuple[AccountRef, Nanos]] = ()

    def __post_init__(self) -> None:
        if any(type(amount) is not int or amount < 0 for _, amount in self.credits):
            raise Unbalanced("A credit is not a whole amount of at least 0.")
        if sum(amount for _, amount in self.credits) != self.charged_nanos:
            raise Unbalanced(f"The credits do not sum to the charge of {self.charged_nanos} nanos.")
        if self.hold.charged_nanos is not None:
            raise HoldResolved(self.hold.hold_id)
        if self.charged_nanos > self.hold.amount_nanos:
            name = f"hold {self.hold.hold_id.hex()}"
            raise InsufficientFunds(name, self.charged_nanos, self.hold.amount_nanos)

    @property
    def legs(self) -> list[tuple[AccountRef, Nanos]]:
        """The credits that move something."""
        return [(account, amount) for account, amount in self.credits if amount]


def clearing_of(hold_id: bytes) -> AccountRef:
    """What is charged for this hold passes here; its posted balance is zero at each commit."""
    return AccountRef(AccountCode.CLEARING_SETTLE, shard_of(hold_id))


def fee_of(hold_id: bytes) -> AccountRef:
    """The marketplace's share of this hold goes here."""
    return AccountRef(AccountCode.FEE, shard_of(hold_id))


def buyer_of(hold: Row[Any]) -> AccountRef:
    """Whose money is held."""
    return AccountRef(AccountCode.BUYER_CASH, hold.buyer)


def hold_ref(hold_id: bytes, part: int) -> str:
    """The ref of a part's transfers: of the hold itself for part 0, with a counter behind it."""
    return f"{hold_id.hex()}:{part}" if part else hold_id.hex()


def resolve(
    session: Session,
    resolutions: Sequence[Resolution],
    *,
    now_s: int,
    beside: Sequence[AccountRef] = (),
) -> None:
    """Resolve all of them, or raise and leave the transaction to be rolled back.

    `beside`: what else is booked on in this transaction, locked in the one order of all.
    """
    if not resolutions:
        return
    balances = Balances(session)
    balances.lock([*_touched(resolutions), *beside])
    parts = _load_parts(session, resolutions)
    rows = [row for one in resolutions for row in _transfers(one, parts[one.hold.hold_id], now_s)]
    write_transfers(session, rows)
    charged = [
        {"hold_id": one.hold.hold_id, "charged_nanos": one.charged_nanos} for one in resolutions
    ]
    update_rows(session, _HOLD, "hold_id", charged)
    lanes = update(_LANE).where(_LANE.c.hold_id.in_([one.hold.hold_id for one in resolutions]))
    received = _LANE.c.amount_received_nanos
    session.execute(lanes.values(settled=True, amount_settled_nanos=received))
    balances.add_all(_changes(resolutions))


def _touched(resolutions: Iterable[Resolution]) -> Iterator[AccountRef]:
    for one in resolutions:
        yield buyer_of(one.hold)
        yield clearing_of(one.hold.hold_id)
        yield from (account for account, _ in one.legs)


def _load_parts(session: Session, resolutions: Sequence[Resolution]) -> dict[bytes, list[Nanos]]:
    """What each part of each hold is over, in order; a hold of one part says so itself."""
    amounts: dict[bytes, list[Nanos]] = {}
    for one in resolutions:
        hold = one.hold
        amounts[hold.hold_id] = [hold.amount_nanos]
        if hold.parts > 1:
            ids = [
                transfer_id(TransferCode.HOLD, hold_ref(hold.hold_id, part))
                for part in range(hold.parts)
            ]
            query = select(_TRANSFER.c.id, _TRANSFER.c.amount_nanos).where(_TRANSFER.c.id.in_(ids))
            found = {row.id: row.amount_nanos for row in session.execute(query)}
            amounts[hold.hold_id] = [found[key] for key in ids]
    return amounts


def _transfers(one: Resolution, parts: Sequence[Nanos], now_s: int) -> Iterator[dict[str, Any]]:
    """The charge is taken from the parts in order, and what is left of them goes back."""
    hold_id = one.hold.hold_id
    buyer, clearing = buyer_of(one.hold), clearing_of(hold_id)
    left = one.charged_nanos
    for part, held in enumerate(parts):
        taken = min(left, held)
        left -= taken
        yield transfer_values(
            buyer,
            clearing,
            taken or held,
            state=TransferState.POST if taken else TransferState.VOID,
            code=TransferCode.POST_HOLD if taken else TransferCode.RELEASE_HOLD,
            ref=hold_ref(hold_id, part),
            now_s=now_s,
            pending_id=transfer_id(TransferCode.HOLD, hold_ref(hold_id, part)),
        )
    for position, (account, amount) in enumerate(one.legs):
        ref = f"{hold_id.hex()}:{position}"
        yield transfer_values(
            clearing, account, amount, code=TransferCode.SETTLE, ref=ref, now_s=now_s
        )


def _changes(resolutions: Iterable[Resolution]) -> dict[AccountRef, Balance]:
    """What all of it does to each account."""
    changes: dict[AccountRef, Balance] = defaultdict(Balance)
    for one in resolutions:
        held, charged = one.hold.amount_nanos, one.charged_nanos
        changes[buyer_of(one.hold)] += Balance(debits_pending=-held, debits_posted=charged)
        # what comes in from the buyer goes out to who earned it: the same amount on both sides
        changes[clearing_of(one.hold.hold_id)] += Balance(
            debits_posted=charged, credits_pending=-held, credits_posted=charged
        )
        for account, amount in one.legs:
            changes[account] += Balance(credits_posted=amount)
    return changes
