"""HTTP of `receipts`."""

from fastapi import APIRouter

from ledger.receipts import accept_receipts
from marketplace.endpoints import MarketOf, Node
from marketplace.receipts.schemas import ReceiptBatch, ReceiptResult, ReceiptResults

__all__ = ["router"]

router = APIRouter(tags=["receipts"])


@router.post("/v1/receipts")
def post_receipts(body: ReceiptBatch, node: Node, market: MarketOf) -> ReceiptResults:
    """Hand in co-signed receipts; what is acknowledged is durable, and has its place in the log."""
    with market.database.transaction() as session:
        outcomes = accept_receipts(
            session, body.receipts, provider=node, now_s=market.clock.now_s()
        )
    return ReceiptResults(
        results=[
            ReceiptResult(
                lease_id=outcome.lease_id.hex(),
                status=outcome.status.value,
                reason=outcome.reason,
                leaf_index=outcome.leaf_index,
            )
            for outcome in outcomes
        ]
    )
