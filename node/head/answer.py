"""What an API asks of a head, and what it gets: the seam between HTTP and sessions."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from protocol.money import Nanos
from protocol.sampling import SamplingParameters

__all__ = [
    "Answer",
    "AnswerRequest",
    "Bill",
    "Delta",
    "FinishReason",
    "Head",
    "HopReport",
    "ModelCard",
    "Travel",
]


class FinishReason(StrEnum):
    STOP = "stop"
    """The model ended, or a stop string came."""
    LENGTH = "length"
    """max_tokens or the context was reached, or the buyer's money: see Answer.stopped_by."""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One chat request, parsed and bounded by the API that took it.

    `max_tokens` None: as many as the context holds (bounded by the head's own default).
    """

    model: str
    messages: Sequence[Mapping[str, object]]
    sampling: SamplingParameters
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    api_key: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer: whole characters only; `tokens` it took since the last piece."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class HopReport:
    """Where a part of the answer was computed."""

    peer_id: str
    span: str
    backend: str
    path_kind: str


@dataclass(frozen=True, slots=True)
class Travel:
    """What the answer took beside its tokens."""

    trips: int
    """Round the route, behind the prompt's."""
    drafted_tokens: int
    accepted_tokens: int
    """Of those drafted: they came without a trip of their own."""
    repairs: int
    """How often hops had to be replaced."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What the marketplace has charged for a session; `settled` False while it is on its way."""

    charged_nanos: Nanos
    settled: bool


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model that can be asked for. Prices in nanos per million tokens, None where unpriced."""

    id: str
    context_tokens: int
    created_s: int
    available: bool
    prompt_nanos_per_million_tokens: int | None = None
    completion_nanos_per_million_tokens: int | None = None
    details: Mapping[str, object] = field(default_factory=dict)


class Answer(Protocol):
    """A running answer. Iterate it once; `aclose` cancels it and frees KV at every hop."""

    session_id: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt: rows that every hop had still from an earlier session, run by none now."""
    completion_tokens: int
    finish_reason: FinishReason | None
    """None while the answer runs."""
    stopped_by: str | None
    """What else than the request's own bounds ended it, or None: why no more of it could be paid,
    as `insufficient_funds` or `key_limit` (node/head/instalments.py has them all)."""

    @property
    def hops(self) -> tuple[HopReport, ...]:
        """Every hop that has seen the request, in the order in which they came to it."""
        ...

    @property
    def travel(self) -> "Travel":
        """How it has come, so far."""
        ...

    def __aiter__(self) -> AsyncIterator[Delta]: ...

    async def aclose(self) -> None:
        """Stop now. Idempotent; returns when every hop has been told."""


class Head(Protocol):
    """Who can be asked for answers."""

    async def models(self) -> Sequence[ModelCard]: ...

    async def answer(self, request: AnswerRequest) -> Answer:
        """Open a session; returns when the route stands and before the first token.

        Raises NodeError (refused), SessionError (no route, a hop failed), EngineError.
        Iterating the answer raises HopFailed or SessionError when the route breaks.
        """
        ...

    async def bill(self, session_id: str, api_key: str) -> Bill | None:
        """What a session cost, or None on a router without money."""
        ...
