"""HTTP of `ledger_pages`: public, so that anyone can audit; only a balance's proof is its owner's.

Tiles and checkpoint are C2SP tlog-tiles under `/v1/ledger/`, for any client of such logs.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status
from fastapi.responses import PlainTextResponse

from ledger.log import LEAVES_PER_PAGE_MAX
from marketplace.endpoints import AnyBuyer, MarketOf, Node
from marketplace.ledger_pages import balances, service
from marketplace.ledger_pages.schemas import (
    BalanceProofs,
    CheckpointPage,
    ConsistencyProof,
    InclusionProof,
    LeafPage,
    LoggedReceipts,
    NewCosignature,
    SnapshotSchema,
    Totals,
)

__all__ = ["router"]

router = APIRouter(tags=["ledger"])

Size = Annotated[int, Query(ge=0, lt=2**63)]
Count = Annotated[int, Query(ge=1, le=LEAVES_PER_PAGE_MAX)]
Index = Annotated[int, Path(ge=0, lt=2**63)]
Hex16 = Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")]

FULL_TILE = "public, max-age=31536000, immutable"
PARTIAL_TILE = "public, max-age=86400"
"""Its bytes never change either, but nobody asks for it once the tile is full."""
NEWEST = "no-cache"


@router.get("/v1/ledger/checkpoint", response_class=PlainTextResponse)
def show_checkpoint(market: MarketOf) -> PlainTextResponse:
    """The log's newest signed size and root, as a C2SP note with its witnesses' cosignatures."""
    with market.database.reading() as session:
        note = service.checkpoint(session)
    return PlainTextResponse(note, headers={"cache-control": NEWEST})


@router.get("/v1/ledger/checkpoints")
def find_checkpoint(
    market: MarketOf, size_max: Size | None = None, cosigned: bool = False
) -> CheckpointPage:
    """The newest checkpoint of at most `size_max` entries, or the newest cosigned one, with what
    the book said at its size."""
    with market.database.reading() as session:
        return service.checkpoint_page(session, size_max, cosigned=cosigned)


@router.get("/v1/ledger/tile/{path:path}", response_class=Response)
def show_tile(path: str, market: MarketOf) -> Response:
    """A tile of hashes, `<L>/<N>` or `<L>/<N>.p/<W>`, or of entries, `entries/<N>`."""
    with market.database.reading() as session:
        name, data = service.tile(session, f"tile/{path}")
    caching = FULL_TILE if name.is_full else PARTIAL_TILE
    return Response(data, media_type="application/octet-stream", headers={"cache-control": caching})


@router.get("/v1/ledger/leaves")
def list_leaves(market: MarketOf, start: Size = 0, count: Count = LEAVES_PER_PAGE_MAX) -> LeafPage:
    """The log's leaves, in order."""
    with market.database.reading() as session:
        return service.leaves(session, start, count)


@router.get("/v1/ledger/proof")
def show_inclusion(market: MarketOf, index: Size, size: Size) -> InclusionProof:
    """That a leaf is in the tree of a size."""
    with market.database.reading() as session:
        return service.inclusion(session, index, size)


@router.get("/v1/ledger/consistency")
def show_consistency(market: MarketOf, first: Size, second: Size) -> ConsistencyProof:
    """That the log only grew from one size to another."""
    with market.database.reading() as session:
        return service.consistency(session, first, second)


@router.get("/v1/ledger/receipts")
def find_receipts(market: MarketOf, lease: Hex16 = None, session: Hex16 = None) -> LoggedReceipts:
    """Where the log has the receipts that count, of one lease or of one session."""
    lease_id = None if lease is None else bytes.fromhex(lease)
    session_id = None if session is None else bytes.fromhex(session)
    with market.database.reading() as database:
        return service.receipts(database, lease_id, session_id)


@router.get("/v1/ledger/proofs/{index}", response_class=PlainTextResponse)
def show_proof_file(index: Index, market: MarketOf) -> str:
    """An entry with its proof and checkpoint, as one C2SP `.tlog-proof` file."""
    with market.database.reading() as session:
        return service.proof_file(session, index, every_s=market.config.settlement_window_s)


@router.post("/v1/ledger/cosignatures", status_code=status.HTTP_204_NO_CONTENT)
def add_cosignature(body: NewCosignature, witness: Node, market: MarketOf) -> None:
    """A node has seen a checkpoint continue all that it saw before, and says so."""
    with market.database.transaction() as session:
        now_s = market.clock.now_s()
        service.cosign(session, body.size, body.line, witness=witness, now_s=now_s)


@router.get("/v1/ledger/balances")
def show_balances(market: MarketOf) -> SnapshotSchema:
    """What is owed to buyers and providers in all, and where the log says so."""
    with market.database.reading() as session:
        return balances.newest(session)


@router.get("/v1/account/balance-proof")
def show_account_proof(caller: AnyBuyer, market: MarketOf) -> BalanceProofs:
    """That the account's balances are counted in what the log says is owed."""
    with market.database.reading() as session:
        return balances.of_account(session, caller.account_id)


@router.get("/v1/provider/balance-proof")
def show_machine_proof(machine: Node, market: MarketOf) -> BalanceProofs:
    """The same for the machine that signed this request: what it earned."""
    with market.database.reading() as session:
        return balances.of_machine(session, machine)


@router.get("/v1/ledger/totals")
def show_totals(
    market: MarketOf, after: Annotated[str, Query(pattern="^[0-9A-Za-z]{0,64}$")] = ""
) -> Totals:
    """Every kind of account, and what each provider has earned; the sum is zero."""
    with market.database.reading() as session:
        return service.totals(session, after)
