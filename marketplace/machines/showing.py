"""Machines, bindings and devices as JSON."""

from ledger.database import Session
from marketplace.accounts import service as accounts
from marketplace.machines import service
from marketplace.machines.models import DeviceCodeRow, MachineRow
from marketplace.machines.repository import MachineRepository
from marketplace.machines.schemas import (
    BindingList,
    BindingSchema,
    DeviceSchema,
    MachineList,
    MachineSchema,
    OwnMachine,
)

__all__ = ["device", "history_of", "machine", "machines_of", "own_machine"]


def device(session: Session, row: DeviceCodeRow, account_id: str) -> DeviceSchema:
    """A device that waits, as somebody of the account is shown it."""
    owner = service.account_of(session, row.peer_id)
    return DeviceSchema.model_validate(
        {
            "peer_id": row.peer_id,
            "name": row.name,
            "purpose": row.purpose,
            "created_at_s": row.created_at_s,
            "expires_at_s": row.expires_at_s,
            "account_id": account_id,
            "moves": row.purpose == "machine" and owner is not None and owner != account_id,
        }
    )


def own_machine(session: Session, peer_id: str) -> OwnMachine:
    """What a node is told of itself."""
    row = MachineRepository(session).get(peer_id)
    if row is None:
        return OwnMachine(peer_id=peer_id, account_id=None, account_name=None, name=None)
    name = accounts.name_of(session, row.account_id)
    return OwnMachine(peer_id=peer_id, account_id=row.account_id, account_name=name, name=row.name)


def machine(row: MachineRow) -> MachineSchema:
    """One machine of an account."""
    return MachineSchema(peer_id=row.peer_id, name=row.name, bound_at_s=row.bound_at_s)


def machines_of(session: Session, account_id: str) -> MachineList:
    """Every machine of an account."""
    return MachineList(data=[machine(row) for row in service.machines_of(session, account_id)])


def history_of(session: Session, account_id: str) -> BindingList:
    """When which machine was the account's."""
    return BindingList(
        data=[
            BindingSchema(
                peer_id=row.peer_id,
                bound_at_s=row.bound_at_s,
                bound_by=row.bound_by,
                unbound_at_s=row.unbound_at_s,
                unbound_by=row.unbound_by,
            )
            for row in service.history(session, account_id)
        ]
    )
