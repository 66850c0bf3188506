"""HTTP of `receipts`."""

from collections.abc import Iterable, Mapping

from fastapi import APIRouter

from ledger.lanes import load_leases
from ledger.receipts import record_receipts, verify_receipts
from marketplace.endpoints import MarketOf, Node
from marketplace.receipts import service
from marketplace.receipts.schemas import ReceiptBatch, ReceiptResult, ReceiptResults
from protocol.lease import Lease

__all__ = ["router"]

router = APIRouter(tags=["receipts"])


@router.post("/v1/receipts")
def post_receipts(body: ReceiptBatch, node: Node, market: MarketOf) -> ReceiptResults:
    """Hand in co-signed receipts; what is acknowledged is durable, and has its place in the log."""

    def leases(lease_ids: Iterable[bytes]) -> Mapping[bytes, Lease]:
        with market.database.reading() as session:
            return load_leases(session, lease_ids)

    now_s = market.clock.now_s()
    # signatures are nearly all of the work: no lock is held while they are checked
    verified = verify_receipts(body.receipts, leases, provider=node)
    with market.database.transaction() as session:
        outcomes = record_receipts(session, verified, now_s=now_s)
    # signed once it is committed: nothing is promised that a crash could take back
    signed = service.sign_outcomes(market.key, body.receipts, outcomes, provider=node, now_s=now_s)
    return ReceiptResults(
        results=[
            ReceiptResult(
                lease_id=outcome.lease_id.hex(),
                status=result.status,
                reason=result.reason,
                leaf_index=result.leaf_index,
            )
            for outcome, result in zip(outcomes, signed.results, strict=True)
        ],
        acknowledgement=signed.envelope,
    )
