"""HTTP of `machines`: nodes ask whose they are, people answer, and see what they have."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, status
from fastapi.responses import HTMLResponse

from marketplace.auth import Caller
from marketplace.endpoints import ManagingBuyer, MarketOf, Member, Node
from marketplace.errors import MarketError
from marketplace.machines import devices, service, showing
from marketplace.machines.codes import in_two
from marketplace.machines.page import PAGE, PAGE_POLICY
from marketplace.machines.schemas import (
    BindingList,
    DeviceAnswer,
    DeviceCodeSchema,
    DeviceRequest,
    DeviceSchema,
    MachineList,
    MachineName,
    MachineSchema,
    OwnMachine,
    TokenRequest,
    UserCode,
)
from marketplace.market import Market
from marketplace.users.addresses import network_of
from marketplace.users.limits import (
    DEVICE_BY_ADDRESS,
    DEVICE_BY_PEER,
    USER_CODE_BY_ADDRESS,
    USER_CODE_BY_CALLER,
    Tried,
    count_attempts,
)

__all__ = ["router"]

router = APIRouter(tags=["machines"])

PeerPath = Annotated[str, Path(min_length=1, max_length=64)]


@router.post("/v1/device/code")
def begin_device(
    body: DeviceRequest, request: Request, peer_id: Node, market: MarketOf
) -> DeviceCodeSchema:
    """A node asks for a code that a person may approve (RFC 8628); signed by the node."""
    now_s = market.clock.now_s()
    count_attempts(
        market.database,
        now_s,
        Tried(DEVICE_BY_ADDRESS, _network(request)),
        Tried(DEVICE_BY_PEER, str(peer_id)),
    )
    purpose = devices.Purpose(body.purpose)
    with market.database.transaction() as session:
        code = devices.begin(session, str(peer_id), body.name, purpose, now_s=now_s)
    base = market.config.public_url or str(request.base_url)
    address = f"{base.rstrip('/')}/device"
    shown = in_two(code.user_code)
    return DeviceCodeSchema(
        device_code=code.device_code,
        user_code=shown,
        verification_uri=address,
        # after '#': it goes to the page and to no server's log
        verification_uri_complete=f"{address}#{shown}",
        expires_in_s=devices.LIFETIME_S,
        interval_s=devices.INTERVAL_S,
    )


@router.post("/v1/device/token")
def ask_device(body: TokenRequest, peer_id: Node, market: MarketOf) -> DeviceAnswer:
    """The node asks what became of its code; 400 with RFC 8628's codes until it was approved."""
    with market.database.transaction() as session:
        answer = devices.ask(session, str(peer_id), body.device_code, now_s=market.clock.now_s())
    if isinstance(answer, MarketError):
        raise answer
    return DeviceAnswer(
        account_id=answer.account_id,
        account_name=answer.account_name,
        name=answer.name,
        api_key=answer.key.text if answer.key else None,
        key_id=answer.key.key_id if answer.key else None,
    )


@router.post("/v1/device/look")
def look_at_device(
    body: UserCode, request: Request, caller: Member, market: MarketOf
) -> DeviceSchema:
    """Which device waits under this code, to be compared with what stands on its screen."""
    _count_user_code(market, request, caller)
    with market.database.reading() as session:
        row = devices.look(session, body.user_code, now_s=market.clock.now_s())
        return showing.device(session, row, caller.account_id)


@router.post("/v1/device/approve")
def approve_device(
    body: UserCode, request: Request, caller: Member, market: MarketOf
) -> DeviceSchema:
    """It is ours: the machine earns for this account from now on, or gets its key."""
    _count_user_code(market, request, caller)
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        row = devices.look(session, body.user_code, now_s=now_s)
        shown = showing.device(session, row, caller.account_id)
        devices.approve(session, caller, body.user_code, now_s=now_s)
    return shown


@router.post("/v1/device/deny", status_code=status.HTTP_204_NO_CONTENT)
def deny_device(body: UserCode, request: Request, caller: Member, market: MarketOf) -> None:
    """It is not ours; whoever waits there is told so."""
    _count_user_code(market, request, caller)
    with market.database.transaction() as session:
        devices.deny(session, body.user_code, now_s=market.clock.now_s())


@router.get("/device", include_in_schema=False)
def show_device_page() -> Response:
    """The page to which a device's address leads: sign in, look, approve."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": PAGE_POLICY})


@router.get("/v1/machine")
def show_own_machine(peer_id: Node, market: MarketOf) -> OwnMachine:
    """A node asks whose it is."""
    with market.database.reading() as session:
        return showing.own_machine(session, str(peer_id))


@router.get("/v1/machines")
def list_machines(caller: Member, market: MarketOf) -> MachineList:
    """Every machine of this account."""
    with market.database.reading() as session:
        return showing.machines_of(session, caller.account_id)


@router.get("/v1/machines/history")
def list_bindings(caller: Member, market: MarketOf) -> BindingList:
    """When which machine was this account's, and who said so."""
    with market.database.reading() as session:
        return showing.history_of(session, caller.account_id)


@router.patch("/v1/machines/{peer_id}")
def rename_machine(
    peer_id: PeerPath, body: MachineName, caller: Member, market: MarketOf
) -> MachineSchema:
    """Call a machine something else."""
    with market.database.transaction() as session:
        row = service.rename(session, caller.account_id, peer_id, body.name)
        return showing.machine(row)


@router.delete("/v1/machines/{peer_id}", status_code=status.HTTP_204_NO_CONTENT)
def unbind_machine(peer_id: PeerPath, caller: ManagingBuyer, market: MarketOf) -> None:
    """It earns for this account no more; what it earned before stays where it is."""
    with market.database.transaction() as session:
        service.unbind(
            session,
            caller.account_id,
            peer_id,
            unbound_by=caller.name,
            now_s=market.clock.now_s(),
        )


def _count_user_code(market: Market, request: Request, caller: Caller) -> None:
    """Looks count with approvals: else one would be guessed through the other."""
    count_attempts(
        market.database,
        market.clock.now_s(),
        Tried(USER_CODE_BY_ADDRESS, _network(request)),
        Tried(USER_CODE_BY_CALLER, caller.account_id),
    )


def _network(request: Request) -> str:
    return network_of(request.client.host if request.client else "")
