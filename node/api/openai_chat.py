"""POST /v1/chat/completions: one answer, whole or as a stream of its pieces."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from node.api.answering import SESSION_HEADER, AnswerResponse
from node.api.chat_objects import ChatChunks, ChatCompletion, chat_completion
from node.api.conversation import answer_request
from node.api.errors import ApiError, logged_problem, request_id_of, without_retry
from node.api.keys import key_reader
from node.api.parameters import refuse_unsupported
from node.api.schemas import ChatRequest
from node.api.settings import ApiSettings
from node.api.sse import DONE, KEEP_ALIVE, STREAM_HEADERS, event, send_events, with_ticks
from node.head.answer import Answer, AnswerRequest, Head

__all__ = ["chat_router"]


def chat_router(head: Head, settings: ApiSettings) -> APIRouter:
    """The chat surface of `head`."""
    router = APIRouter()
    read_key = key_reader(require_key=settings.require_key)

    @router.post(
        "/chat/completions",
        response_class=Response,
        responses={
            200: {
                "model": ChatCompletion,
                "description": "The answer; with `stream`, events of ChatChunk",
                "content": {"text/event-stream": {}},
            }
        },
    )
    async def create_chat_completion(
        body: ChatRequest, key: Annotated[str, Depends(read_key)]
    ) -> Response:
        refuse_unsupported(body.model_extra or {})
        asked = answer_request(body, api_key=key, draw_seed=settings.draw_seed)
        if not body.stream:
            return _WholeChat(head, asked, settings)
        options = body.stream_options
        include_usage = options is not None and bool(options.include_usage)
        return _StreamedChat(head, asked, settings, include_usage=include_usage)

    return router


class _WholeChat(AnswerResponse):
    """The answer as one JSON object.

    When it breaks after its first token, the hops are owed for what they did: the client is told
    not to ask again by itself, which would be paid twice.
    """

    def __init__(self, head: Head, asked: AnswerRequest, settings: ApiSettings) -> None:
        super().__init__(head, asked)
        self._settings = settings

    async def write(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            text = "".join([delta.text async for delta in answer])
        except Exception as error:
            if answer.completion_tokens:
                raise ApiError(
                    without_retry(logged_problem(error, request_id_of(scope)))
                ) from error
            raise
        body = chat_completion(answer, text, created_s=self._settings.now_s())
        response = JSONResponse(body, headers={SESSION_HEADER: answer.session_id})
        await response(scope, receive, send)


class _StreamedChat(AnswerResponse):
    """The answer as server-sent events, byte for byte as OpenAI's SDKs expect them.

    A comment at once; the role with the first piece; the pieces; the reason of the end; the usage
    if asked for; [DONE]. After an error there is one error event and no [DONE]: the stream is not
    whole.
    """

    def __init__(
        self, head: Head, asked: AnswerRequest, settings: ApiSettings, *, include_usage: bool
    ) -> None:
        super().__init__(head, asked)
        self._settings = settings
        self._include_usage = include_usage

    async def write(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {**STREAM_HEADERS, SESSION_HEADER: answer.session_id}
        request_id = request_id_of(scope)
        await send_events(
            send,
            self._events(answer),
            headers=headers,
            failed=lambda error: event(logged_problem(error, request_id).body),
        )

    async def _events(self, answer: Answer) -> AsyncGenerator[bytes]:
        chunks = ChatChunks(
            answer, created_s=self._settings.now_s(), include_usage=self._include_usage
        )
        yield KEEP_ALIVE
        is_begun = False
        async with aclosing(with_ticks(aiter(answer), self._settings.keep_alive_s)) as deltas:
            async for delta in deltas:
                if delta is None:
                    yield KEEP_ALIVE
                    continue
                if not delta.text:
                    continue
                begin = b"" if is_begun else event(chunks.first())
                is_begun = True
                yield begin + event(chunks.text(delta.text))
        if not is_begun:
            yield event(chunks.first())
        for chunk in chunks.last():
            yield event(chunk)
        yield DONE
