"""Our errors as codes on the wire, and telling a peer what it may be too late to tell."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from node.engine.errors import EngineDied, OutOfKV
from protocol.errors import (
    EngineError,
    ErrorCode,
    PieceworkError,
    ProtocolError,
    SessionError,
    VerificationError,
)
from protocol.session import CLOSE_TIMEOUT_S
from transport.errors import TransportError

__all__ = ["attempt", "code_of"]

logger = logging.getLogger(__name__)


def code_of(error: PieceworkError) -> ErrorCode:
    """What the head is told."""
    match error:
        case SessionError():
            return error.code
        case OutOfKV():
            return ErrorCode.NO_CAPACITY
        case EngineDied():
            return ErrorCode.ENGINE_FAILED
        case EngineError() | ProtocolError():
            return ErrorCode.MALFORMED
        case VerificationError():
            return ErrorCode.NOT_ADMITTED
        case TransportError():
            return ErrorCode.PEER_GONE
    return ErrorCode.INTERNAL


async def attempt(action: Callable[[], Awaitable[None]]) -> None:
    """Tell a peer something that it may be too late to tell."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await action()
    except (PieceworkError, TimeoutError) as error:
        logger.debug("could not tell the peer: %s", error)
