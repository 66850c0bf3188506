"""What witnesses have signed, in the database: verified before it is kept, bounded, served."""

from collections.abc import Sequence

from sqlalchemy import func, select

from ledger.accounts import AccountCode, AccountRef
from ledger.checkpoint import split_note
from ledger.cosignature import add_lines, verify_cosignature, witness_name
from ledger.database import Session, insert_missing, metadata
from ledger.errors import AuditFailed
from ledger.log import Log, SignedCheckpoint
from ledger.log_models import CosignatureRow
from ledger.models import AccountRow
from protocol.identity import PeerId

__all__ = [
    "COSIGNATURES_MAX",
    "STRANGERS_MAX",
    "cosigned_note",
    "newest_cosigned",
    "store_cosignature",
]

COSIGNATURES_MAX = 64
"""Of one checkpoint: with them a note has 11 of the 16 KiB it may have."""
STRANGERS_MAX = 32
"""Of these, by nodes that never earned anything: PeerIds cost nothing, so they cannot crowd out
those of providers."""
CLOCK_SKEW_S = 300
"""A witness's clock may be ahead of ours by as much."""

_COSIGNATURE = metadata.tables[CosignatureRow.__tablename__]
_ACCOUNT = metadata.tables[AccountRow.__tablename__]


def store_cosignature(
    session: Session, size: int, line: str, *, witness: PeerId, now_s: int
) -> bool:
    """Keep a node's line under the checkpoint of `size`; False where there is no more room.

    The same witness again is no error: its first line stands. Raises AuditFailed for a line that is
    not that witness's under that checkpoint, or a size that was not signed.
    """
    signed = Log(session).checkpoint_at(size)
    if signed is None or signed.size != size:
        raise AuditFailed(f"No checkpoint of {size} entries was signed.")
    text, _ = split_note(signed.note)
    found = verify_cosignature(text, line, witness_name(witness), witness)
    if found.time_s > now_s + CLOCK_SKEW_S:
        raise AuditFailed(f"The cosignature is of {found.time_s}, and now is {now_s}.")
    if not _has_room(session, size, witness):
        return False
    row = {"size": size, "witness": str(witness), "line": line, "received_at_s": now_s}
    insert_missing(session, _COSIGNATURE, [row])
    return True


def cosigned_note(session: Session, signed: SignedCheckpoint) -> str:
    """The note with every cosignature that is kept, the earliest first."""
    query = (
        select(_COSIGNATURE.c.line)
        .where(_COSIGNATURE.c.size == signed.size)
        .order_by(_COSIGNATURE.c.received_at_s, _COSIGNATURE.c.witness)
    )
    lines: Sequence[str] = session.execute(query).scalars().all()
    return add_lines(signed.note, lines)


def newest_cosigned(session: Session) -> SignedCheckpoint | None:
    """The newest checkpoint that any witness has cosigned."""
    size = session.execute(select(func.max(_COSIGNATURE.c.size))).scalar_one_or_none()
    return Log(session).checkpoint_at(size) if size is not None else None


def _has_room(session: Session, size: int, witness: PeerId) -> bool:
    query = select(func.count()).where(_COSIGNATURE.c.size == size)
    count: int = session.execute(query).scalar_one()
    if count < STRANGERS_MAX:
        return True
    earned = AccountRef(AccountCode.PROVIDER_EARNED, str(witness)).name
    query = select(func.count()).where(_ACCOUNT.c.name == earned)
    return count < COSIGNATURES_MAX and bool(session.execute(query).scalar_one())
