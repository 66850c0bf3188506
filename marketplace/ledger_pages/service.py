"""The public log and the book's totals."""

from ledger.book import Book
from ledger.database import Session
from ledger.log import LEAVES_PER_PAGE_MAX, Log, SignedCheckpoint
from marketplace.errors import Malformed
from marketplace.ledger_pages.repository import ProviderRepository
from marketplace.ledger_pages.schemas import (
    AccountTotals,
    CheckpointTotals,
    ConsistencyProof,
    InclusionProof,
    LeafPage,
    Totals,
)

__all__ = ["checkpoint", "consistency", "inclusion", "leaves", "totals"]

PROVIDERS_PAGE = 1000
"""Providers of one answer: about 80 kB."""


def checkpoint(session: Session) -> str:
    """The newest signed note; the worker signs one before the first request is served."""
    return _latest(session).note


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
        checkpoint=CheckpointTotals(
            size=latest.size,
            charged_nanos=latest.charged_nanos,
            credited_nanos=latest.credited_nanos,
            fee_nanos=latest.fee_nanos,
        ),
    )


def _latest(session: Session) -> SignedCheckpoint:
    latest = Log(session).latest()
    assert latest is not None, "signed at start"
    return latest
