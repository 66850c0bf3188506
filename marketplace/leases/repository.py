"""Queries of `leases`: sessions and their holds, and what the ledger knows of these."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func
from sqlmodel import Session, col, select

from ledger.models import HoldRow, LaneRow, ReceiptRow
from marketplace.leases.models import SessionHoldRow, SessionRow
from protocol.envelope import Envelope
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.money import Nanos, Work
from protocol.record import decode_canonical, decode_fields

__all__ = ["HoldState", "LaneView", "SessionRepository"]


@dataclass(frozen=True, slots=True)
class HoldState:
    """What became of the money of one hold."""

    hold_id: bytes
    amount_nanos: Nanos
    charged_nanos: Nanos | None
    """None while it is held; 0 once released."""
    closed: bool


@dataclass(frozen=True, slots=True)
class LaneView:
    """One hop of a session as the ledger has it."""

    epoch: int
    """Of the session, since when this hop is on its route."""
    lease: Lease
    envelope: bytes
    received_nanos: Nanos
    settled_nanos: Nanos
    settled: bool
    work: Work
    receipt: bytes | None
    """The co-signed receipt that counts."""
    leaf_index: int | None


class SessionRepository:
    """Paid sessions."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, session_id: bytes, *, lock: bool = False) -> SessionRow | None:
        """`lock`: nobody else may change it, or what it holds, before we are done."""
        return self._session.get(SessionRow, session_id, with_for_update=lock)

    def add(self, row: SessionRow) -> None:
        self._session.add(row)
        self._session.flush()

    def holds(self, session_id: bytes) -> Sequence[SessionHoldRow]:
        """The session's holds by epoch: at least that of its quote."""
        query = select(SessionHoldRow).where(SessionHoldRow.session_id == session_id)
        return self._session.exec(query.order_by(col(SessionHoldRow.epoch))).all()

    def add_hold(self, row: SessionHoldRow) -> None:
        self._session.add(row)
        self._session.flush()

    def headroom_nanos(self, account_id: str) -> Nanos:
        """What the account's sessions under way may still cost beyond what they hold."""
        query = (
            select(func.coalesce(func.sum(SessionHoldRow.headroom_nanos), 0))
            .join(SessionRow, col(SessionRow.session_id) == col(SessionHoldRow.session_id))
            .join(HoldRow, col(HoldRow.hold_id) == col(SessionHoldRow.hold_id))
            .where(SessionRow.account_id == account_id)
            .where(col(SessionRow.closed_at_s).is_(None))
            .where(col(HoldRow.charged_nanos).is_(None))
        )
        # PostgreSQL sums BIGINT as NUMERIC, which arrives as Decimal
        return int(self._session.exec(query).one())

    def hold_states(self, session_id: bytes) -> Sequence[HoldState]:
        """What the ledger knows of the session's holds, by epoch."""
        query = (
            select(HoldRow)
            .join(SessionHoldRow, col(SessionHoldRow.hold_id) == col(HoldRow.hold_id))
            .where(SessionHoldRow.session_id == session_id)
            .order_by(col(SessionHoldRow.epoch))
        )
        return [
            HoldState(row.hold_id, row.amount_nanos, row.charged_nanos, row.closed)
            for row in self._session.exec(query)
        ]

    def lanes(self, session_id: bytes) -> Sequence[LaneView]:
        """Every hop the session ever had, by epoch and in the order of the route."""
        query = (
            select(LaneRow, ReceiptRow, SessionHoldRow.epoch)
            .join(SessionHoldRow, col(SessionHoldRow.hold_id) == col(LaneRow.hold_id))
            .join(
                ReceiptRow,
                (col(ReceiptRow.lease_id) == col(LaneRow.lease_id))
                & (col(ReceiptRow.sequence) == col(LaneRow.last_sequence)),
                isouter=True,
            )
            .where(SessionHoldRow.session_id == session_id)
        )
        views = [_view(lane, receipt, epoch) for lane, receipt, epoch in self._session.exec(query)]
        return sorted(views, key=lambda view: (view.epoch, view.lease.hop_index))

    def of_provider(self, provider: PeerId, limit: int) -> Sequence[LaneView]:
        """The provider's lanes, the newest first; without their receipts."""
        query = (
            select(LaneRow, SessionHoldRow.epoch)
            .join(SessionHoldRow, col(SessionHoldRow.hold_id) == col(LaneRow.hold_id))
            .where(LaneRow.provider == str(provider))
            .order_by(col(SessionHoldRow.created_at_s).desc(), col(LaneRow.lease_id))
            .limit(limit)
        )
        return [_view(lane, None, epoch) for lane, epoch in self._session.exec(query)]

    def open_by_provider(self, providers: Collection[PeerId]) -> Mapping[PeerId, int]:
        """Leases of each provider whose session is not over."""
        query = (
            select(LaneRow.provider, func.count())
            .join(HoldRow, col(HoldRow.hold_id) == col(LaneRow.hold_id))
            .where(col(HoldRow.charged_nanos).is_(None))
            .where(col(HoldRow.closed).is_(False))
            .group_by(LaneRow.provider)
        )
        names = {str(provider): provider for provider in providers}
        return {names[name]: count for name, count in self._session.exec(query) if name in names}


def _view(lane: LaneRow, receipt: ReceiptRow | None, epoch: int) -> LaneView:
    # ours, and signed when it was issued
    lease = decode_fields(Lease, decode_canonical(Envelope.decode(lane.lease).payload))
    return LaneView(
        epoch=epoch,
        lease=lease,
        envelope=lane.lease,
        received_nanos=lane.amount_received_nanos,
        settled_nanos=lane.amount_settled_nanos,
        settled=lane.settled,
        work=Work(
            prefill_token_layers=lane.prefill_token_layers,
            decode_token_layers=lane.decode_token_layers,
            bytes_in=lane.bytes_in,
            bytes_out=lane.bytes_out,
        ),
        receipt=receipt.cosigned if receipt else None,
        leaf_index=receipt.leaf_index if receipt else None,
    )
