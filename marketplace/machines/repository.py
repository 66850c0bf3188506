"""Queries of `machines`: whose each machine is and was."""

from collections.abc import Sequence

from sqlalchemy import delete, func
from sqlmodel import Session, col, or_, select

from marketplace.machines.models import BindingRow, DeviceCodeRow, MachineRow

__all__ = ["DeviceRepository", "MachineRepository"]


class MachineRepository:
    """Machines and their history."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, peer_id: str, *, lock: bool = False) -> MachineRow | None:
        return self._session.get(MachineRow, peer_id, with_for_update=True if lock else None)

    def of_account(self, account_id: str) -> Sequence[MachineRow]:
        """The oldest binding first."""
        query = select(MachineRow).where(MachineRow.account_id == account_id)
        return self._session.exec(
            query.order_by(col(MachineRow.bound_at_s), MachineRow.peer_id)
        ).all()

    def count(self, account_id: str) -> int:
        query = select(func.count()).where(MachineRow.account_id == account_id)
        return self._session.exec(query).one()

    def bind(self, row: MachineRow, bound_by: str) -> None:
        """A machine that nobody has; its history goes on."""
        self._session.add(row)
        self._session.add(
            BindingRow(
                peer_id=row.peer_id,
                account_id=row.account_id,
                bound_at_s=row.bound_at_s,
                bound_by=bound_by,
            )
        )
        self._session.flush()

    def unbind(self, row: MachineRow, unbound_by: str, now_s: int) -> None:
        """Nobody has it from now on."""
        self._session.delete(row)
        query = select(BindingRow).where(
            BindingRow.peer_id == row.peer_id, col(BindingRow.unbound_at_s).is_(None)
        )
        for binding in self._session.exec(query):
            # a clock that went back must not make a binding that ended before it began
            binding.unbound_at_s = max(now_s, binding.bound_at_s)
            binding.unbound_by = unbound_by
        self._session.flush()

    def rename(self, row: MachineRow, name: str) -> None:
        row.name = name
        self._session.flush()

    def account_at(self, peer_id: str, at_s: int) -> str | None:
        """Whose it was at a time."""
        query = (
            select(BindingRow.account_id)
            .where(
                BindingRow.peer_id == peer_id,
                BindingRow.bound_at_s <= at_s,
                or_(col(BindingRow.unbound_at_s).is_(None), col(BindingRow.unbound_at_s) > at_s),
            )
            .order_by(col(BindingRow.id).desc())
            .limit(1)
        )
        return self._session.exec(query).first()

    def history(self, account_id: str, limit: int) -> Sequence[BindingRow]:
        """Every time a machine was this account's, the last first."""
        query = select(BindingRow).where(BindingRow.account_id == account_id)
        return self._session.exec(query.order_by(col(BindingRow.id).desc()).limit(limit)).all()


class DeviceRepository:
    """Nodes that wait for a person."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: DeviceCodeRow) -> None:
        self._session.add(row)
        self._session.flush()

    def lock(self, code_hash: bytes) -> DeviceCodeRow | None:
        return self._session.get(DeviceCodeRow, code_hash, with_for_update=True)

    def waiting(self, user_code: str, *, lock: bool) -> DeviceCodeRow | None:
        """The one under this code that nobody has answered."""
        query = select(DeviceCodeRow).where(
            DeviceCodeRow.user_code == user_code, DeviceCodeRow.state == "waiting"
        )
        if lock:
            query = query.with_for_update()
        return self._session.exec(query).one_or_none()

    def keep_newest(self, peer_id: str, count: int) -> None:
        """Drop those of a machine that were made first, above `count`."""
        newest = (
            select(DeviceCodeRow.code_hash)
            .where(DeviceCodeRow.peer_id == peer_id)
            .order_by(col(DeviceCodeRow.created_at_s).desc())
            .limit(count)
        )
        self._session.execute(
            delete(DeviceCodeRow).where(
                col(DeviceCodeRow.peer_id) == peer_id, col(DeviceCodeRow.code_hash).not_in(newest)
            )
        )

    def forget_expired(self, now_s: int) -> None:
        self._session.execute(delete(DeviceCodeRow).where(col(DeviceCodeRow.expires_at_s) <= now_s))
