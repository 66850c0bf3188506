"""The public log and the book's totals."""

from ledger.book import Book
from ledger.cosignatures import cosigned_note, newest_cosigned, store_cosignature
from ledger.database import Session
from ledger.errors import AuditFailed
from ledger.log import LEAVES_PER_PAGE_MAX, Log, SignedCheckpoint
from ledger.proof_file import LogProof
from ledger.tiles import TileName, parse_tile_path
from marketplace.errors import Malformed
from marketplace.ledger_pages.errors import CosignaturesFull, NotInLog, NotYetSigned
from marketplace.ledger_pages.repository import ProviderRepository, ReceiptRepository
from marketplace.ledger_pages.schemas import (
    AccountTotals,
    CheckpointPage,
    CheckpointTotals,
    ConsistencyProof,
    InclusionProof,
    LeafPage,
    LoggedReceipt,
    LoggedReceipts,
    Totals,
)
from protocol.identity import PeerId

__all__ = [
    "checkpoint",
    "checkpoint_page",
    "consistency",
    "cosign",
    "inclusion",
    "leaves",
    "proof_file",
    "receipts",
    "tile",
    "totals",
]

PROVIDERS_PAGE = 1000
"""Providers of one answer: about 80 kB."""


def checkpoint(session: Session) -> str:
    """The newest signed note; the worker signs one before the first request is served."""
    return cosigned_note(session, _latest(session))


def checkpoint_page(session: Session, size_max: int | None, *, cosigned: bool) -> CheckpointPage:
    """The newest checkpoint of at most so many entries; or the newest a witness has signed."""
    signed = newest_cosigned(session) if cosigned else Log(session).checkpoint_at(size_max)
    if signed is None:
        what = "cosigned" if cosigned else f"at or below {size_max} entries"
        raise NotInLog(f"There is no checkpoint {what}.")
    return CheckpointPage(
        size=signed.size,
        note=cosigned_note(session, signed),
        created_at_s=signed.created_at_s,
        totals=_totals_of(signed),
    )


def tile(session: Session, path: str) -> tuple[TileName, bytes]:
    """What stands at `tile/…`; raises NotInLog."""
    try:
        name = parse_tile_path(path)
        return name, Log(session).tile(name)
    except AuditFailed as error:
        raise NotInLog(str(error)) from None


def leaves(session: Session, start: int, count: int) -> LeafPage:
    """Up to `count` leaves from `start`."""
    log = Log(session)
    page = log.page(start, min(count, LEAVES_PER_PAGE_MAX))
    end = start + len(page)
    return LeafPage(leaves=page, next=end if page and end < log.size else None)


def inclusion(session: Session, index: int, size: int) -> InclusionProof:
    """Raises Malformed where the tree of `size` has no such leaf."""
    log = Log(session)
    if not 0 <= index < size <= log.size:
        raise Malformed(f"There is no leaf {index} in a tree of {size}; the log has {log.size}.")
    return InclusionProof(index=index, size=size, hashes=log.inclusion_proof(index, size))


def consistency(session: Session, first: int, second: int) -> ConsistencyProof:
    """Raises Malformed unless first <= second <= the log's size."""
    log = Log(session)
    if not 0 <= first <= second <= log.size:
        raise Malformed(f"{first} and {second} are no two sizes of the log; it has {log.size}.")
    return ConsistencyProof(first=first, second=second, hashes=log.consistency_proof(first, second))


def receipts(session: Session, lease_id: bytes | None, session_id: bytes | None) -> LoggedReceipts:
    """Where the receipts of a lease or a session are; raises NotInLog where there is none."""
    if (lease_id is None) == (session_id is None):
        raise Malformed("Give a lease or a session.")
    repository = ReceiptRepository(session)
    if lease_id is not None:
        rows = repository.of_lease(lease_id)
    else:
        assert session_id is not None
        rows = repository.of_session(session_id)
    if not rows:
        raise NotInLog("The log has no receipt of that.", hint="Receipts come as work is done.")
    return LoggedReceipts(
        receipts=[
            LoggedReceipt(lease_id=bytes(lease), sequence=sequence, leaf_index=index)
            for lease, sequence, index in rows
        ]
    )


def proof_file(session: Session, index: int, *, every_s: int) -> str:
    """A `.tlog-proof` of one entry, under the newest cosigned checkpoint that covers it, if any
    does, else under the newest."""
    log = Log(session)
    page = log.page(index, 1)
    if not page:
        raise NotInLog(f"The log has {log.size} entries, and none of index {index}.")
    signed = newest_cosigned(session)
    if signed is None or signed.size <= index:
        signed = _latest(session)
    if signed.size <= index:
        raise NotYetSigned(index, every_s)
    hashes = tuple(log.inclusion_proof(index, signed.size))
    return LogProof(bytes(page[0]), index, hashes, cosigned_note(session, signed)).encode()


def cosign(session: Session, size: int, line: str, *, witness: PeerId, now_s: int) -> None:
    """Keep a witness's line; raises Malformed for one that is not good, or CosignaturesFull."""
    try:
        kept = store_cosignature(session, size, line, witness=witness, now_s=now_s)
    except AuditFailed as error:
        raise Malformed(str(error)) from None
    if not kept:
        raise CosignaturesFull(f"The checkpoint of {size} entries has witnesses enough.")


def totals(session: Session, after: str) -> Totals:
    """Sums by account code, and a page of providers."""
    by_code, latest = Book(session).totals(), _latest(session)
    providers = dict(ProviderRepository(session).earned(after, PROVIDERS_PAGE + 1))
    more = len(providers) > PROVIDERS_PAGE
    if more:
        providers.popitem()
    return Totals(
        accounts={
            code.value: AccountTotals(
                debits_posted=sums.debits_posted,
                credits_posted=sums.credits_posted,
                debits_pending=sums.debits_pending,
                credits_pending=sums.credits_pending,
            )
            for code, sums in by_code.items()
        },
        sum_nanos=sum(sums.posted_nanos for sums in by_code.values()),
        providers=providers,
        next_provider=list(providers)[-1] if more else None,
        checkpoint=_totals_of(latest),
    )


def _totals_of(signed: SignedCheckpoint) -> CheckpointTotals:
    return CheckpointTotals(size=signed.size, **signed.totals)


def _latest(session: Session) -> SignedCheckpoint:
    latest = Log(session).latest()
    assert latest is not None, "signed at start"
    return latest
