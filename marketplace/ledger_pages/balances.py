"""What is owed, as a tree that is put into the log, and every owner's own place in it."""

from collections.abc import Iterable

from ledger.accounts import AccountCode, AccountRef
from ledger.balance_snapshots import Snapshot, balance_proof, newest_snapshot
from ledger.database import Session
from marketplace.ledger_pages.errors import NotInLog
from marketplace.ledger_pages.schemas import BalanceProofs, BalanceProofSchema, SnapshotSchema
from protocol.identity import PeerId

__all__ = ["newest", "of_account", "of_machine"]

_OF_ACCOUNTS = tuple(
    code
    for code in AccountCode
    if code.is_liability and code not in (AccountCode.PROVIDER_EARNED, AccountCode.DISPUTED)
)
"""Under a market account; what a machine has earned stands under its PeerId until it is released,
and what is disputed under the lease."""


def newest(session: Session) -> SnapshotSchema:
    """Root, sum and count; raises NotInLog before the first snapshot."""
    return SnapshotSchema.of(_newest(session))


def of_account(session: Session, account_id: str) -> BalanceProofs:
    """Of a buyer, a provider, or both in one."""
    return _proofs(session, (AccountRef(code, account_id) for code in _OF_ACCOUNTS))


def of_machine(session: Session, machine: PeerId) -> BalanceProofs:
    """Of one machine: what it earned and was not released yet."""
    return _proofs(session, [AccountRef(AccountCode.PROVIDER_EARNED, str(machine))])


def _proofs(session: Session, accounts: Iterable[AccountRef]) -> BalanceProofs:
    snapshot = _newest(session)
    found = [balance_proof(session, snapshot, account.name) for account in accounts]
    return BalanceProofs(
        snapshot=SnapshotSchema.of(snapshot),
        proofs=[BalanceProofSchema.of(proof) for proof in found if proof is not None],
    )


def _newest(session: Session) -> Snapshot:
    snapshot = newest_snapshot(session)
    if snapshot is None:
        raise NotInLog("No balance tree was made yet.", hint="The first comes within the hour.")
    return snapshot
