"""One dial of one peer: its addresses are tried side by side, the first proven one wins."""

import asyncio
from collections.abc import Sequence
from time import monotonic

from protocol.identity import PeerId
from transport.address import Address
from transport.base import PathKind
from transport.errors import Attempt, DialFailed
from transport.interfaces import path_kind_of
from transport.quic.connection import QuicConnection
from transport.quic.endpoint import Endpoint
from transport.quic.seams import CloseCode, ConnectionState
from transport.quic.settings import QuicSettings

__all__ = ["dial", "dial_unknown"]


async def dial(
    endpoint: Endpoint,
    peer_id: PeerId,
    addresses: Sequence[Address],
    settings: QuicSettings,
    timeout_s: float,
) -> QuicConnection:
    """A verified connection to `peer_id`; raises DialFailed with one attempt per address.

    LAN addresses go first, each `dial_stagger_s` after the one before; losers are closed.
    """
    ordered = sorted(
        dict.fromkeys(addresses), key=lambda a: path_kind_of(a.host) is not PathKind.LAN
    )[: settings.dial_addresses_max]
    deadline = monotonic() + timeout_s
    tasks = [
        asyncio.create_task(
            _attempt(endpoint, peer_id, address, index * settings.dial_stagger_s, deadline)
        )
        for index, address in enumerate(ordered)
    ]
    attempts: list[Attempt] = []
    winner: QuicConnection | None = None
    try:
        for next_done in asyncio.as_completed(tasks):
            match await next_done:
                case QuicConnection() as winner:
                    return winner
                case Attempt() as attempt:
                    attempts.append(attempt)
    finally:
        await _close_losers(tasks, winner)
    raise DialFailed(str(peer_id), tuple(attempts))


async def dial_unknown(
    endpoint: Endpoint, host: str, port: int, timeout_s: float
) -> QuicConnection:
    """A verified connection to whoever is at that address; raises DialFailed."""
    text = f"{host} port {port}"
    result = await _handshake(endpoint, (host, port), text, None, monotonic() + timeout_s)
    if isinstance(result, Attempt):
        raise DialFailed(text, (result,))
    return result


async def _attempt(
    endpoint: Endpoint, peer_id: PeerId, address: Address, delay_s: float, deadline: float
) -> QuicConnection | Attempt:
    await asyncio.sleep(delay_s)
    if address.peer_id != peer_id:
        return Attempt(str(address), "the address is another peer's", 0.0)
    place = (address.host, address.port)
    return await _handshake(endpoint, place, str(address), peer_id, deadline)


async def _handshake(
    endpoint: Endpoint, place: tuple[str, int], text: str, expected: PeerId | None, deadline: float
) -> QuicConnection | Attempt:
    began = monotonic()

    def failed(reason: str) -> Attempt:
        return Attempt(text, reason, monotonic() - began)

    target = endpoint.udp.to_socket_address(*place)
    if target is None:
        return failed("this host has no IPv6 socket")
    connection = endpoint.dial(target, expected)
    try:
        await asyncio.wait_for(asyncio.shield(connection.verified), max(0.0, deadline - began))
    except TimeoutError:
        connection.close_now(CloseCode.NOT_NEEDED, "dial timed out")
        return failed("no answer")
    except asyncio.CancelledError:
        connection.close_now(CloseCode.NOT_NEEDED, "another address answered first")
        raise
    if connection.state is ConnectionState.OPEN:
        return connection
    return failed(str(connection.error))


async def _close_losers(
    tasks: list[asyncio.Task[QuicConnection | Attempt]], winner: QuicConnection | None
) -> None:
    """Cancel what is under way, and close what connected in the same turn as the winner."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, QuicConnection) and result is not winner:
            result.close_now(CloseCode.NOT_NEEDED, "another address answered first")
