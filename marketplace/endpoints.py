"""What all endpoints share: the market behind a request, who is asking, and two public pages.

The dependencies below open and close their own short transactions, so that none is held while a
request waits for a thread.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Request
from starlette.concurrency import run_in_threadpool

from marketplace.auth import (
    Caller,
    Scope,
    admit_node,
    authenticate,
    authenticate_login,
    require_scope,
    verify_node,
)
from marketplace.browsers import cookie_for, is_own_page
from marketplace.fields import PeerText, Schema
from marketplace.machines import service as machines
from marketplace.machines.errors import MachineUnbound
from marketplace.market import Market
from marketplace.turns import Turn
from marketplace.users import logins
from marketplace.users.errors import ForeignOrigin, LoginInvalid, OperatorOnly, StepUpNeeded
from protocol.identity import PeerId
from protocol.request import PEER_HEADER, SignedRequest

__all__ = [
    "AnyBuyer",
    "BeginningBuyer",
    "Earner",
    "InferenceBuyer",
    "MachineOrMember",
    "ManagingBuyer",
    "MarketOf",
    "Member",
    "Node",
    "Operator",
    "Person",
    "QuotingBuyer",
    "RunningBuyer",
    "router",
]

router = APIRouter()


def _market(request: Request) -> Market:
    market = request.app.state.market
    assert isinstance(market, Market)
    return market


MarketOf = Annotated[Market, Depends(_market)]


def _caller(
    request: Request,
    market: MarketOf,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Caller:
    """A header is taken before a cookie, and a wrong one never makes way for the cookie."""
    now_s = market.clock.now_s()
    cookie = request.cookies.get(cookie_for(market.config).name)
    with market.database.reading() as session:
        if authorization is None and cookie is not None:
            if not is_own_page(market.config, request.method, request.headers):
                raise ForeignOrigin
            caller = authenticate_login(session, cookie, now_s=now_s)
        else:
            caller = authenticate(session, authorization, now_s=now_s)
    if caller.key_id is not None:
        market.key_uses.note(caller.key_id, now_s)
    elif caller.login is not None and logins.needs_touch(caller.login.row, now_s=now_s):
        with market.database.transaction() as session:
            logins.touch(session, caller.login.row, now_s=now_s)
    return caller


AnyBuyer = Annotated[Caller, Depends(_caller)]
"""Somebody of an account: a key of any scope, or a person who is signed in."""


def _with_inference(caller: AnyBuyer) -> Caller:
    require_scope(caller, Scope.INFERENCE)
    return caller


InferenceBuyer = Annotated[Caller, Depends(_with_inference)]


async def _to_quote(caller: InferenceBuyer, market: MarketOf) -> AsyncIterator[Caller]:
    async with market.turns.of(caller.account_id, Turn.QUOTE):
        yield caller


async def _to_begin(caller: InferenceBuyer, market: MarketOf) -> AsyncIterator[Caller]:
    async with market.turns.of(caller.account_id, Turn.BEGIN):
        yield caller


async def _to_go_on(caller: InferenceBuyer, market: MarketOf) -> AsyncIterator[Caller]:
    async with market.turns.of(caller.account_id, Turn.GO_ON):
        yield caller


# InferenceBuyers whose turn it is; it ends with the endpoint, and not with the answer's journey
QuotingBuyer = Annotated[Caller, Depends(_to_quote, scope="function")]
BeginningBuyer = Annotated[Caller, Depends(_to_begin, scope="function")]
RunningBuyer = Annotated[Caller, Depends(_to_go_on, scope="function")]


def _with_management(caller: AnyBuyer) -> Caller:
    require_scope(caller, Scope.MANAGEMENT)
    return caller


def _member(caller: AnyBuyer) -> Caller:
    if caller.login is None:
        require_scope(caller, Scope.MANAGEMENT)
    return caller


def _person(caller: AnyBuyer) -> Caller:
    if caller.login is None:
        raise LoginInvalid
    return caller


ManagingBuyer = Annotated[Caller, Depends(_with_management)]
"""An owner of the account, or a key that may manage it: for keys, cards, payouts, people."""
Member = Annotated[Caller, Depends(_member)]
"""Anybody of the account who is signed in, or a key that may manage it: for looking at money."""
Person = Annotated[Caller, Depends(_person)]
"""Somebody who is signed in; their `login` is never None."""


def _operator(caller: Person, market: MarketOf) -> Caller:
    assert caller.login is not None
    if not caller.login.is_operator:
        raise OperatorOnly
    if not logins.is_fresh(caller.login.row.code_at_s, now_s=market.clock.now_s()):
        raise StepUpNeeded
    return caller


Operator = Annotated[Caller, Depends(_operator)]
"""A person who runs this marketplace, and has shown a one-time code in this session lately."""


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


@dataclass(frozen=True, slots=True)
class Earner:
    """The account whose earnings are asked for, and who asks: one of its machines, or a member."""

    account_id: str
    peer_id: PeerId | None
    caller: Caller | None


async def _earner(
    request: Request,
    market: MarketOf,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Earner:
    if PEER_HEADER not in request.headers:
        caller = await run_in_threadpool(_caller, request, market, authorization)
        return Earner(caller.account_id, None, _member(caller))
    signed = await _signed(request, market)
    return await run_in_threadpool(_earning_machine, market, signed)


def _earning_machine(market: Market, signed: SignedRequest) -> Earner:
    peer_id = _node(market, signed)
    with market.database.reading() as session:
        account_id = machines.account_of(session, str(peer_id))
    if account_id is None:
        raise MachineUnbound(str(peer_id))
    return Earner(account_id, peer_id, None)


MachineOrMember = Annotated[Earner, Depends(_earner)]
"""A machine that signed this request and is bound to an account, or a Member of one."""


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
