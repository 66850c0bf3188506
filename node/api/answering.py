"""Responses that run a head's answer: they cancel it when the client goes, and always close it.

The answer is opened inside the response and not before it, so that one scope holds everything that
must end with the client: the wait for a route, every piece, and the close. Nothing is sent until
`head.answer` has returned, so a refusal still has its own status.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Response
from starlette.types import Receive, Scope, Send

from node.api.disconnect import ClientGone, cancelled_on_disconnect, send_within
from node.api.errors import request_id_of
from node.head.answer import Answer, AnswerRequest, Head

__all__ = ["SESSION_HEADER", "AnswerResponse"]

logger = logging.getLogger(__name__)

SESSION_HEADER = "x-piecework-session"

CLOSE_TIMEOUT_S = 10.0
"""For every hop to hear of the end; after that their own time limits free what they hold."""


class AnswerResponse(Response, ABC):
    """Opens an answer and writes it in a subclass's format."""

    def __init__(self, head: Head, asked: AnswerRequest) -> None:
        super().__init__()
        self._head = head
        self._asked = asked

    @abstractmethod
    async def write(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        """Iterate `answer` and send the whole response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with (
                cancelled_on_disconnect(receive),
                _opened(self._head, self._asked) as answer,
            ):
                await self.write(answer, scope, receive, send_within(send))
        except ClientGone:
            logger.info(
                "request %s: the client left before its answer was complete", request_id_of(scope)
            )


@asynccontextmanager
async def _opened(head: Head, asked: AnswerRequest) -> AsyncIterator[Answer]:
    """An answer that is closed in every case: end, error, disconnect, shutdown."""
    answer = await head.answer(asked)
    try:
        yield answer
    finally:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await answer.aclose()
        except Exception:  # the answer is over for the client: nobody above could do more
            logger.exception("session %s did not close", answer.session_id)
