"""HTTP of `manifests`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, status

from marketplace.endpoints import MarketOf, Node
from marketplace.errors import Conflict, Malformed
from marketplace.fields import parse_hex
from marketplace.manifests import service
from marketplace.manifests.schemas import ModelList
from marketplace.market import Market

__all__ = ["router"]

router = APIRouter(tags=["models"])
HASH_BYTES = 32


async def _body(request: Request) -> bytes:
    return await request.body()


@router.put("/v1/manifests/{manifest_hash}", status_code=status.HTTP_204_NO_CONTENT)
def put_manifest(
    manifest_hash: str, node: Node, market: MarketOf, body: Annotated[bytes, Depends(_body)]
) -> None:
    """Register a ModelManifest (canonical CBOR) under its own hash."""
    try:
        digest = parse_hex(manifest_hash, HASH_BYTES)
    except ValueError as error:
        raise Malformed(f"The manifest's hash {error}.") from None
    try:
        _register(market, digest, body)
    except Conflict:
        # another put the same, or the same name, at this moment: now it is there to be seen
        _register(market, digest, body)


def _register(market: Market, digest: bytes, body: bytes) -> None:
    with market.database.transaction() as session:
        service.register(session, digest, body, now_s=market.clock.now_s())


@router.get("/v1/models")
def list_models(market: MarketOf) -> ModelList:
    """The catalogue: every model that may be sold, and whether it is whole now."""
    with market.database.reading() as session:
        return service.catalogue(session, market)
