"""GET /v1/models and /v1/models/{id}: what can be asked for, with OpenRouter's extra fields."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from typing_extensions import TypedDict

from node.api.errors import ApiError, model_not_found
from node.api.keys import key_reader
from node.api.settings import ApiSettings
from node.head.answer import Head, ModelCard

__all__ = ["models_router"]

_SUPPORTED_PARAMETERS = [
    "max_completion_tokens",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
]

_USD_EXPONENT = -15
"""Nanos (10^-9) per million (10^6) tokens, as dollars per token."""


class Pricing(TypedDict):
    """Dollars per token as decimal text: no float touches a price."""

    prompt: str
    completion: str


class Architecture(TypedDict):
    input_modalities: list[str]
    output_modalities: list[str]


class Model(TypedDict):
    """OpenAI's model object, and what pickers and routers like to know."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    name: str
    context_length: int
    pricing: Pricing | None
    architecture: Architecture
    supported_parameters: list[str]
    available: bool
    piecework: Mapping[str, Any]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[Model]


def models_router(head: Head, settings: ApiSettings) -> APIRouter:
    """The catalogue of `head`."""
    router = APIRouter()
    read_key = key_reader(require_key=settings.require_key)

    @router.get("/models", response_class=JSONResponse, responses={200: {"model": ModelList}})
    async def list_models(_: Annotated[str, Depends(read_key)]) -> JSONResponse:
        body: ModelList = {
            "object": "list",
            "data": [_model(card) for card in await head.models()],
        }
        return JSONResponse(body)

    # ids contain slashes, and arrive with them even when the client had escaped them
    @router.get(
        "/models/{model:path}", response_class=JSONResponse, responses={200: {"model": Model}}
    )
    async def retrieve_model(model: str, _: Annotated[str, Depends(read_key)]) -> JSONResponse:
        for card in await head.models():
            if card.id == model:
                return JSONResponse(_model(card))
        raise ApiError(model_not_found(model))

    return router


def _model(card: ModelCard) -> Model:
    return {
        "id": card.id,
        "object": "model",
        "created": card.created_s,
        "owned_by": "piecework",
        "name": card.id,
        "context_length": card.context_tokens,
        "pricing": _pricing(card),
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "supported_parameters": _SUPPORTED_PARAMETERS,
        "available": card.available,
        "piecework": card.details,
    }


def _pricing(card: ModelCard) -> Pricing | None:
    prompt = card.prompt_nanos_per_million_tokens
    completion = card.completion_nanos_per_million_tokens
    if prompt is None or completion is None:
        return None
    return {"prompt": _usd_per_token(prompt), "completion": _usd_per_token(completion)}


def _usd_per_token(nanos_per_million_tokens: int) -> str:
    """Exact: 150 000 000 (15 cents a million) is '0.00000015'."""
    usd = Decimal(nanos_per_million_tokens).scaleb(_USD_EXPONENT)
    text = f"{usd:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
