"""Queries of `usage`: what an account's sessions came to, from sessions, holds and lanes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlmodel import Session, col

from ledger.models import HoldRow, LaneRow
from marketplace.leases.models import SessionHoldRow, SessionRow
from protocol.money import Nanos

__all__ = ["DAY_S", "GroupSums", "SessionSums", "UsageRepository"]

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class GroupSums:
    """All sessions of one day, model and key. `day`: days since 1970, UTC."""

    day: int
    model: str
    key_id: str
    requests: int
    charged_nanos: Nanos
    held_nanos: Nanos
    prompt_tokens: int
    output_tokens: int
    bytes_carried: int


@dataclass(frozen=True, slots=True)
class SessionSums:
    """One session, over all its holds."""

    session_id: bytes
    created_at_s: int
    closed_at_s: int | None
    model: str
    key_id: str
    charged_nanos: Nanos
    held_nanos: Nanos
    open_holds: int
    prompt_tokens: int
    output_tokens: int


class UsageRepository:
    """One account's usage."""

    def __init__(self, session: Session, account_id: str) -> None:
        self._session = session
        self._account_id = account_id

    def groups(self, start_s: int, end_s: int) -> Sequence[GroupSums]:
        """By day, model and key, of sessions begun in [start_s, end_s)."""
        day = col(SessionRow.created_at_s) // DAY_S
        keys = (day, col(SessionRow.model), col(SessionRow.key_id), col(SessionRow.layers))
        within = and_(
            col(SessionRow.account_id) == self._account_id,
            col(SessionRow.created_at_s) >= start_s,
            col(SessionRow.created_at_s) < end_s,
        )
        money = _with_holds(
            select(*keys, func.count(func.distinct(col(SessionRow.session_id))), *_MONEY)
        )
        work = _with_lanes(select(*keys, *_WORK))
        paid = self._session.execute(money.where(within).group_by(*keys)).all()
        carried = {
            tuple(row[:4]): row
            for row in self._session.execute(work.where(within).group_by(*keys)).all()
        }
        return [_group(row, carried.get(tuple(row[:4]))) for row in paid]

    def sessions(
        self, *, before: tuple[int, bytes] | None, limit: int, start_s: int = 0, end_s: int = 2**62
    ) -> Sequence[SessionSums]:
        """The newest first, older than `before` (its time and id)."""
        created, session_id = col(SessionRow.created_at_s), col(SessionRow.session_id)
        older: ColumnElement[bool] = and_(created >= start_s, created < end_s)
        if before is not None:
            same = and_(created == before[0], session_id < before[1])
            older = and_(older, or_(created < before[0], same))
        page = (
            select(SessionRow)
            .where(col(SessionRow.account_id) == self._account_id, older)
            .order_by(created.desc(), session_id.desc())
            .limit(limit)
        )
        rows = self._session.execute(page).scalars().all()
        ids = [row.session_id for row in rows]
        money = _with_holds(select(session_id, *_MONEY, _OPEN)).where(session_id.in_(ids))
        work = _with_lanes(select(session_id, *_WORK)).where(session_id.in_(ids))
        paid = {row[0]: row for row in self._session.execute(money.group_by(session_id))}
        carried = {row[0]: row for row in self._session.execute(work.group_by(session_id))}
        return [_one(row, paid[row.session_id], carried.get(row.session_id)) for row in rows]

    def first_at_s(self) -> int | None:
        """When the account's first session began."""
        query = select(func.min(col(SessionRow.created_at_s)))
        found = self._session.execute(query.where(col(SessionRow.account_id) == self._account_id))
        first: int | None = found.scalar_one()
        return first


_MONEY = (
    func.sum(func.coalesce(col(HoldRow.charged_nanos), 0)),
    func.sum(case((col(HoldRow.charged_nanos).is_(None), col(HoldRow.amount_nanos)), else_=0)),
)
_OPEN = func.sum(case((col(HoldRow.charged_nanos).is_(None), 1), else_=0))
_WORK = (
    func.sum(col(LaneRow.prefill_token_layers)),
    func.sum(col(LaneRow.decode_token_layers)),
    func.sum(col(LaneRow.bytes_out)),
)


def _with_holds(query: Any) -> Any:
    return query.join(
        SessionHoldRow, col(SessionHoldRow.session_id) == col(SessionRow.session_id)
    ).join(HoldRow, col(HoldRow.hold_id) == col(SessionHoldRow.hold_id))


def _with_lanes(query: Any) -> Any:
    return query.join(
        SessionHoldRow, col(SessionHoldRow.session_id) == col(SessionRow.session_id)
    ).join(LaneRow, col(LaneRow.hold_id) == col(SessionHoldRow.hold_id))


def _group(paid: Sequence[Any], work: Sequence[Any] | None) -> GroupSums:
    day, model, key_id, layers, requests, charged, held = paid
    # PostgreSQL sums BIGINT as NUMERIC, which arrives as Decimal
    prefill, decode, carried = (int(count) for count in work[4:7]) if work else (0, 0, 0)
    return GroupSums(
        int(day), model, key_id, int(requests), int(charged), int(held),
        prefill // max(layers, 1), decode // max(layers, 1), carried,
    )  # fmt: skip


def _one(row: SessionRow, paid: Sequence[Any], work: Sequence[Any] | None) -> SessionSums:
    prefill, decode = (int(count) for count in work[1:3]) if work else (0, 0)
    layers = max(row.layers, 1)
    return SessionSums(
        row.session_id, row.created_at_s, row.closed_at_s, row.model, row.key_id,
        int(paid[1]), int(paid[2]), int(paid[3]), prefill // layers, decode // layers,
    )  # fmt: skip
