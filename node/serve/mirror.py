"""A copy, for the standby of the next hop, of what this hop sends on.

It follows the log, so it keeps no rows of its own and never makes a step wait: a slow standby is
behind, and one that is gone is done without. Nothing that goes wrong here ends anything else.
"""

import asyncio
import logging

from node.serve.hop_state import HopState
from node.serve.links import Link
from node.serve.onward import dial_link
from node.serve.replay_log import Chunk, LogCursor, ReplayLog
from protocol.errors import PieceworkError
from protocol.frame import Attach, LinkRole, Open, Replay, StepKind, Truncate
from protocol.tensor import payload_hash

__all__ = ["mirror_rows"]

logger = logging.getLogger(__name__)


async def mirror_rows(state: HopState, log: ReplayLog) -> None:
    """Follow `log` to the standby that this epoch's OPEN names, until cancelled or it fails."""
    request = state.request
    assert request.mirror is not None
    attach = Attach(request.session_id, request.epoch, request.hop_index + 1, LinkRole.MIRROR)
    link: Link | None = None
    try:
        link, rows = await dial_link(
            state.parts.host, request.mirror, request.mirror_addresses, attach
        )
        await _follow(state, request, log, link, rows)
    except PieceworkError as error:
        logger.info("the standby of hop %d is left behind: %s", attach.hop_index, error)
    finally:
        if link is not None:
            link.end(is_void=True)


async def _follow(state: HopState, request: Open, log: ReplayLog, link: Link, rows: int) -> None:
    changed = asyncio.Event()
    cursor = log.follow(rows, changed.set)
    try:
        while True:
            changed.clear()
            if (frame := _next(state, request, log, cursor)) is None:
                await changed.wait()
            else:
                await link.send(frame)
    finally:
        log.unfollow(cursor)


def _next(
    state: HopState, request: Open, log: ReplayLog, cursor: LogCursor
) -> Replay | Truncate | None:
    """What the standby is sent next; None while it has all. Raises LocalProtocolError when the
    log no longer has what it lacks."""
    if (cut := cursor.take_cut()) is not None:
        return Truncate(request.session_id, request.epoch, cut)
    if (chunk := log.read(cursor.position, log.end)) is None:
        return None
    cursor.position += chunk.count
    return _replay(state, request, chunk)


def _replay(state: HopState, request: Open, chunk: Chunk) -> Replay:
    return Replay(
        request.session_id, request.epoch, StepKind.PREFILL, chunk.position, chunk.count, 0,
        request.wire_dtype, state.parts.runner.info.hidden_size, chunk.payload,
        payload_hash(chunk.payload),
    )  # fmt: skip
