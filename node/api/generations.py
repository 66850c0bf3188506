"""GET /v1/generations/{session_id}: what an answer has cost so far."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from typing_extensions import TypedDict

from node.api.errors import ApiError, Problem
from node.api.keys import key_reader
from node.api.settings import ApiSettings
from node.head.answer import Head
from protocol.money import format_usd

__all__ = ["generations_router"]


class Generation(TypedDict):
    """`charged_nanos`: billionths of a dollar; `charged_usd` the same as text; `settled`: final."""

    id: str
    charged_nanos: int
    charged_usd: str
    settled: bool


def generations_router(head: Head, settings: ApiSettings) -> APIRouter:
    """The bills of `head`'s answers."""
    router = APIRouter()
    read_key = key_reader(require_key=settings.require_key)

    @router.get(
        "/generations/{session_id}",
        response_class=JSONResponse,
        responses={200: {"model": Generation}},
    )
    async def retrieve_generation(
        session_id: str, key: Annotated[str, Depends(read_key)]
    ) -> JSONResponse:
        bill = await head.bill(session_id, key)
        if bill is None:
            message = "No bill of this id: answers of a node without a marketplace cost nothing."
            raise ApiError(Problem(404, "generation_not_found", message, param="session_id"))
        body: Generation = {
            "id": session_id,
            "charged_nanos": bill.charged_nanos,
            "charged_usd": format_usd(bill.charged_nanos).replace("$", ""),
            "settled": bill.settled,
        }
        return JSONResponse(body)

    return router
