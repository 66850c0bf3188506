"""Whose a machine is: binding, moving, naming, unbinding; the history is kept.

A machine is bound by two words together: its own signature (it asked for the code) and the approval
of somebody of the account. The same two words move it from one account to another.
"""

from collections.abc import Sequence

from ledger.database import Session
from marketplace.accounts.repository import AccountRepository
from marketplace.machines.errors import MachineUnknown, TooManyMachines
from marketplace.machines.models import BindingRow, MachineRow
from marketplace.machines.repository import MachineRepository

__all__ = [
    "account_at",
    "account_of",
    "bind",
    "history",
    "machines_of",
    "rename",
    "unbind",
]

MACHINES_MAX = 1000
"""Of one account: a large flat of them, and a bound on what is listed."""
HISTORY_MAX = 1000
"""Bindings that are listed, the last first."""


def account_of(session: Session, peer_id: str) -> str | None:
    """The account that a machine (PeerId text) earns for now; None where it has none."""
    row = MachineRepository(session).get(peer_id)
    return None if row is None else row.account_id


def account_at(session: Session, peer_id: str, at_s: int) -> str | None:
    """The account that it belonged to at a time, however often it has moved since."""
    return MachineRepository(session).account_at(peer_id, at_s)


def machines_of(session: Session, account_id: str) -> Sequence[MachineRow]:
    """Every machine of the account, the oldest first; at most MACHINES_MAX."""
    return MachineRepository(session).of_account(account_id)


def bind(
    session: Session, peer_id: str, account_id: str, name: str, *, bound_by: str, now_s: int
) -> MachineRow:
    """The machine earns for this account from now on. Its signature must have been seen.

    Raises TooManyMachines.
    """
    repository = MachineRepository(session)
    row = repository.get(peer_id, lock=True)
    if row is not None and row.account_id == account_id:
        repository.rename(row, name)
        return row
    AccountRepository(session).lock(account_id)
    if repository.count(account_id) >= MACHINES_MAX:
        raise TooManyMachines(MACHINES_MAX)
    if row is not None:
        repository.unbind(row, bound_by, now_s)
    bound = MachineRow(peer_id=peer_id, account_id=account_id, name=name, bound_at_s=now_s)
    repository.bind(bound, bound_by)
    return bound


def rename(session: Session, account_id: str, peer_id: str, name: str) -> MachineRow:
    """Call a machine of the account something else. Raises MachineUnknown."""
    repository = MachineRepository(session)
    row = _own(repository, account_id, peer_id)
    repository.rename(row, name)
    return row


def unbind(session: Session, account_id: str, peer_id: str, *, unbound_by: str, now_s: int) -> None:
    """It earns for nobody until it is bound again. Raises MachineUnknown."""
    repository = MachineRepository(session)
    repository.unbind(_own(repository, account_id, peer_id), unbound_by, now_s)


def history(session: Session, account_id: str) -> Sequence[BindingRow]:
    """Every time a machine was this account's, the last first."""
    return MachineRepository(session).history(account_id, HISTORY_MAX)


def _own(repository: MachineRepository, account_id: str, peer_id: str) -> MachineRow:
    row = repository.get(peer_id, lock=True)
    if row is None or row.account_id != account_id:
        raise MachineUnknown
    return row
