"""HTTP of `disputes`: for those concerned, for operators, and proofs for anybody."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from ledger.equivocation import load_proof
from marketplace.disputes import service, showing
from marketplace.disputes.errors import DisputeUnknown
from marketplace.disputes.schemas import (
    ClaimSchema,
    DisputeList,
    DisputeSchema,
    NewStatement,
    OpenDisputeList,
    RefusalList,
    StatementSchema,
)
from marketplace.disputes.service import Party
from marketplace.endpoints import Earner, MachineOrMember, MarketOf, Operator
from marketplace.fields import parse_hex

__all__ = ["router"]

router = APIRouter(tags=["disputes"])

IdText = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
FOREVER_S = 2**62
REFUSALS_SINCE_S = 30 * 86_400


@router.get("/v1/disputes")
def list_disputes(
    earner: MachineOrMember,
    market: MarketOf,
    before_s: Annotated[int, Query(ge=0, le=FOREVER_S)] = FOREVER_S,
) -> DisputeList:
    """Over what the account's machines earned or the account paid, the newest first."""
    with market.database.reading() as session:
        rows = service.of_party(session, _party(earner), before_s=before_s)
        return DisputeList(data=[showing.show(session, row) for row in rows])


@router.get("/v1/disputes/{dispute_id}")
def show_dispute(dispute_id: IdText, earner: MachineOrMember, market: MarketOf) -> DisputeSchema:
    """One dispute: what is parked, why, what was said, and how it was ruled."""
    with market.database.reading() as session:
        row = service.seen_by(session, _party(earner), parse_hex(dispute_id, 16))
        return showing.show(session, row)


@router.post("/v1/disputes/{dispute_id}/statements", status_code=201)
def post_statement(
    dispute_id: IdText, body: NewStatement, earner: MachineOrMember, market: MarketOf
) -> StatementSchema:
    """Be heard, within 14 days of its opening."""
    with market.database.transaction() as session:
        row = service.state(
            session, _party(earner), parse_hex(dispute_id, 16), body.statement_id, body.body,
            now_s=market.clock.now_s(),
        )  # fmt: skip
        return showing.show_statement(row)


@router.get("/v1/equivocations/{lease_id}", response_class=Response)
def show_equivocation(lease_id: IdText, market: MarketOf) -> Response:
    """The file that proves to anybody that a payer has contradicted itself."""
    with market.database.reading() as session:
        proof = load_proof(session, parse_hex(lease_id, 16))
    if proof is None:
        raise DisputeUnknown
    return Response(proof.encode(), media_type="application/cbor")


@router.get("/v1/operator/disputes")
def list_open(operator: Operator, market: MarketOf) -> OpenDisputeList:
    """Everything that waits for a ruling, the oldest first, with what the graph of blame says."""
    with market.database.reading() as session:
        return OpenDisputeList(data=showing.open_disputes(session))


@router.post("/v1/operator/disputes", status_code=201)
def file_claim(body: ClaimSchema, operator: Operator, market: MarketOf) -> DisputeSchema:
    """Claim that a lease's output was not its model's: parks what is left of its pay."""
    with market.database.transaction() as session:
        service.claim_bad_output(
            session, body.dispute_id, body.lease_id, claim=body.claim, evidence=body.evidence,
            filed_by=f"operator:{operator.account_id}", now_s=market.clock.now_s(),
        )  # fmt: skip
    with market.database.reading() as session:
        row = service.get(session, body.dispute_id)
        return showing.show(session, row)


@router.get("/v1/operator/refusals")
def list_refusals(operator: Operator, market: MarketOf) -> RefusalList:
    """Accounts whose heads left hops without the last receipt in 30 days, worst first."""
    with market.database.reading() as session:
        since_s = market.clock.now_s() - REFUSALS_SINCE_S
        return RefusalList(data=showing.refusals(session, since_s=since_s))


def _party(earner: Earner) -> Party:
    return Party(earner.account_id, str(earner.peer_id) if earner.peer_id else None)
