"""Our errors as codes on the wire, and telling a peer what it may be too late to tell."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from node.engine.errors import OutOfKV, OutOfMemory, QueueFull, StepCancelled, StepInvalid
from protocol.errors import (
    EngineError,
    ErrorCode,
    NeighbourGone,
    PieceworkError,
    ProtocolError,
    SessionError,
    VerificationError,
)
from protocol.frame import ErrorFrame, Open
from protocol.identity import PeerId
from protocol.session import CLOSE_TIMEOUT_S
from transport.errors import TransportError

__all__ = ["attempt", "code_of", "error_frame", "gone"]

REASON_CHARS_MAX = 200
"""A sentence for people; it crosses the network and lands in an API's error."""

logger = logging.getLogger(__name__)


def code_of(error: PieceworkError) -> ErrorCode:
    """What the head is told."""
    match error:
        case SessionError():
            return error.code
        case OutOfKV() | OutOfMemory() | QueueFull():
            return ErrorCode.NO_CAPACITY
        case StepCancelled():
            return ErrorCode.CANCELLED
        case StepInvalid() | ProtocolError():
            return ErrorCode.MALFORMED
        case EngineError():
            return ErrorCode.ENGINE_FAILED
        case VerificationError():
            return ErrorCode.NOT_ADMITTED
        case TransportError():
            return ErrorCode.PEER_GONE
    return ErrorCode.INTERNAL


def error_frame(request: Open, error: PieceworkError) -> ErrorFrame:
    """The one frame that tells the head why its session cannot start or go on."""
    about = PeerId(error.public_key) if isinstance(error, NeighbourGone) else None
    message = error.message[:REASON_CHARS_MAX]
    return ErrorFrame(request.session_id, code_of(error), message, about, request.epoch)


def gone(peer: PeerId, reason: str, code: ErrorCode = ErrorCode.PEER_GONE) -> NeighbourGone:
    """A neighbour is lost: it left (PEER_GONE), was late (TIMED_OUT) or sent nonsense (MALFORMED).

    In each case the head has to find another in its place.
    """
    return NeighbourGone(f"The hop {peer.short} is lost: {reason}", peer.public_key, code=code)


async def attempt(action: Callable[[], Awaitable[None]]) -> None:
    """Tell a peer something that it may be too late to tell."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await action()
    except (PieceworkError, TimeoutError) as error:
        logger.debug("could not tell the peer: %s", error)
