"""HTTP of `operations`: for people with the operator's role and a one-time code."""

from typing import Annotated

from fastapi import APIRouter, Path

from marketplace.auth import Caller
from marketplace.endpoints import MarketOf, Operator
from marketplace.operations import approvals, service
from marketplace.operations.schemas import (
    ApprovalList,
    ApprovalRequest,
    ApprovalSchema,
    BooksSchema,
    ClearingList,
    SumsSchema,
)

__all__ = ["router"]

router = APIRouter(prefix="/v1/operations", tags=["operations"])

ApprovalId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


@router.get("/sums")
def show_sums(_: Operator, market: MarketOf) -> SumsSchema:
    """The book by account code; the sum is zero."""
    with market.database.reading() as session:
        return service.sums(session)


@router.get("/clearing")
def show_clearing(_: Operator, market: MarketOf) -> ClearingList:
    """Holds, payouts and parked money by age."""
    with market.database.reading() as session:
        return service.clearing(session, now_s=market.clock.now_s())


@router.get("/books")
def check_the_books(_: Operator, market: MarketOf) -> BooksSchema:
    """Run every invariant now."""
    with market.database.reading() as session:
        return service.books(session, market)


@router.get("/approvals")
def list_approvals(_: Operator, market: MarketOf, open_only: bool = True) -> ApprovalList:
    """What waits for a second person, and with `open_only=false` what was decided."""
    with market.database.reading() as session:
        return approvals.listing(session, open_only=open_only)


@router.post("/approvals")
def ask_for_approval(body: ApprovalRequest, operator: Operator, market: MarketOf) -> ApprovalSchema:
    """Ask for a freeze, a release, a ruling or goodwill; the same again is the same."""
    with market.database.transaction() as session:
        return approvals.ask(session, _person(operator), body, now_s=market.clock.now_s())


@router.post("/approvals/{approval_id}/approve")
def approve(approval_id: ApprovalId, operator: Operator, market: MarketOf) -> ApprovalSchema:
    """Agree, as the second person; it is done at once."""
    identity = bytes.fromhex(approval_id)
    with market.database.transaction() as session:
        return approvals.approve(
            session, market, _person(operator), identity, now_s=market.clock.now_s()
        )


@router.post("/approvals/{approval_id}/refuse")
def refuse(approval_id: ApprovalId, operator: Operator, market: MarketOf) -> ApprovalSchema:
    """Say no, or take one's own wish back."""
    identity = bytes.fromhex(approval_id)
    with market.database.transaction() as session:
        return approvals.refuse(session, _person(operator), identity, now_s=market.clock.now_s())


def _person(operator: Caller) -> str:
    assert operator.user_id is not None, "an operator is signed in"
    return operator.user_id
