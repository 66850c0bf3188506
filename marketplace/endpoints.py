"""What all endpoints share: the market behind a request, who is asking, and two public pages.

The dependencies below open and close their own short transactions, so that none is held while a
request waits for a thread.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Request

from marketplace.auth import (
    Caller,
    Scope,
    admit_node,
    authenticate,
    require_scope,
    verify_node,
)
from marketplace.fields import PeerText, Schema
from marketplace.market import Market
from protocol.identity import PeerId
from protocol.request import SignedRequest

__all__ = ["AnyBuyer", "InferenceBuyer", "ManagingBuyer", "MarketOf", "Node", "router"]

router = APIRouter()


def _market(request: Request) -> Market:
    market = request.app.state.market
    assert isinstance(market, Market)
    return market


MarketOf = Annotated[Market, Depends(_market)]


def _caller(
    market: MarketOf, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> Caller:
    with market.database.reading() as session:
        caller = authenticate(session, authorization)
    market.key_uses.note(caller.key_id, market.clock.now_s())
    return caller


AnyBuyer = Annotated[Caller, Depends(_caller)]
"""A buyer, with a key of any scope."""


def _with_inference(caller: AnyBuyer) -> Caller:
    require_scope(caller, Scope.INFERENCE)
    return caller


def _with_management(caller: AnyBuyer) -> Caller:
    require_scope(caller, Scope.MANAGEMENT)
    return caller


InferenceBuyer = Annotated[Caller, Depends(_with_inference)]
ManagingBuyer = Annotated[Caller, Depends(_with_management)]


async def _signed(request: Request, market: MarketOf) -> SignedRequest:
    body = await request.body()
    query = request.scope["query_string"].decode("ascii")
    path = request.scope["raw_path"].decode("ascii")
    target = f"{path}?{query}" if query else path
    return verify_node(request.headers, request.method, target, body, now_s=market.clock.now_s())


def _node(market: MarketOf, signed: Annotated[SignedRequest, Depends(_signed)]) -> PeerId:
    with market.database.transaction() as session:
        return admit_node(session, signed)


Node = Annotated[PeerId, Depends(_node)]
"""A node that signed this very request, for the first time."""


class MarketSchema(Schema):
    """What a client must know of this marketplace."""

    network: str
    peer_id: PeerText
    fee_basis_points: int
    window_tokens: int
    credit_windows: int
    settlement_window_s: int
    processor: str
    relays: list[str]
    """Multiaddrs of the pool's relays, for homes that cannot be reached directly."""


class Health(Schema):
    """The process answers and its database can be read."""

    status: Literal["ok"] = "ok"


@router.get("/v1/market", tags=["market"])
def show_market(market: MarketOf) -> MarketSchema:
    """The pool's name, the key that signs its leases, and its terms."""
    config = market.config
    return MarketSchema(
        network=config.network,
        peer_id=market.key.peer_id,
        fee_basis_points=config.fee_basis_points,
        window_tokens=config.window_tokens,
        credit_windows=config.credit_windows,
        settlement_window_s=config.settlement_window_s,
        processor=market.processor.name,
        relays=list(config.relays),
    )


@router.get("/healthz", tags=["market"])
def show_health(market: MarketOf) -> Health:
    """200 while requests can be served."""
    market.database.ping()
    return Health()
