"""A head without models or network, with the real interface: for tests of what stands before it.

Every answer is scripted: a list of pieces (one token each), with delays, and errors raised when the
test says so. It honours `max_tokens` and `stop`, and records what was asked and what was cancelled.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from node.errors import KeyRefused, ModelUnknown
from node.head.answer import AnswerRequest, Bill, Delta, FinishReason, HopReport, ModelCard, Travel
from node.head.detokenizer import StopStrings

__all__ = ["FAKE_MODEL", "FakeAnswer", "FakeHead", "FakeScript"]

FAKE_MODEL = ModelCard(
    id="piecework/fake-1b",
    context_tokens=4096,
    created_s=1_700_000_000,
    available=True,
    prompt_nanos_per_million_tokens=150_000_000,
    completion_nanos_per_million_tokens=600_000_000,
)

FAKE_HOPS = (
    HopReport(peer_id="12D3KooWFakeOne", span="0-12", backend="fake", path_kind="lan"),
    HopReport(peer_id="12D3KooWFakeTwo", span="12-24", backend="fake", path_kind="direct"),
)


@dataclass(slots=True)
class FakeScript:
    """What the next answers do. Change it between requests."""

    pieces: Sequence[str] = ("Hello", " there", ", how", " are", " you", "?")
    opening_s: float = 0.0
    """Before `answer` returns: the quote and the route."""
    prefill_s: float = 0.0
    """Before the first piece."""
    piece_s: float = 0.0
    """Before each further piece."""
    cached_tokens: int = 0
    """Of the prompt, as found at the hops."""
    stopped_by: str | None = None
    """Why it ends, beside the reason."""
    opening_error: Exception | None = None
    """Raised by `answer` instead of opening."""
    piece_errors: Mapping[int, Exception] = field(default_factory=dict)
    """Raised in place of the piece with this index."""


class FakeAnswer:
    """One scripted answer."""

    def __init__(self, session_id: str, request: AnswerRequest, script: FakeScript) -> None:
        self.session_id = session_id
        self.model = request.model
        self.prompt_tokens = sum(len(str(m["content"]).split()) for m in request.messages)
        self.cached_tokens = script.cached_tokens
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stopped_by = script.stopped_by
        self.hops = FAKE_HOPS
        self.travel = Travel(0, 0, 0, 0)
        self.is_closed = False
        self.is_cancelled = False
        """Closed before it had finished."""
        self._request = request
        self._script = script

    async def __aiter__(self) -> AsyncIterator[Delta]:
        stops = StopStrings(self._request.stop)
        uncounted = 0
        for index, piece in enumerate(self._script.pieces):
            await asyncio.sleep(self._script.piece_s if index else self._script.prefill_s)
            if index in self._script.piece_errors:
                raise self._script.piece_errors[index]
            if self.completion_tokens == self._request.max_tokens:
                self.finish_reason = FinishReason.LENGTH
                break
            self.completion_tokens += 1
            uncounted += 1
            text = stops.push(piece)
            if text:
                yield Delta(text, uncounted)
                uncounted = 0
            if stops.is_stopped:
                break
        rest = stops.flush()
        self.finish_reason = self.finish_reason or FinishReason.STOP
        if rest:
            yield Delta(rest, uncounted)

    async def aclose(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.is_cancelled = self.finish_reason is None


class FakeHead:
    """Serves `script` for every model in `models`; with `keys`, to holders of one of them only."""

    def __init__(
        self,
        script: FakeScript | None = None,
        *,
        models: Sequence[ModelCard] = (FAKE_MODEL,),
        keys: frozenset[str] | None = None,
        bills: Mapping[str, Bill] | None = None,
    ) -> None:
        self.script = script or FakeScript()
        self.requests: list[AnswerRequest] = []
        self.answers: list[FakeAnswer] = []
        self.opening_cancelled = 0
        """Requests given up while `answer` had not returned."""
        self._models = tuple(models)
        self._keys = keys
        self._bills = bills

    async def models(self) -> Sequence[ModelCard]:
        return self._models

    async def answer(self, request: AnswerRequest) -> FakeAnswer:
        self.requests.append(request)
        self._check_key(request.api_key)
        if all(card.id != request.model for card in self._models):
            raise ModelUnknown(request.model)
        script = self.script
        try:
            await asyncio.sleep(script.opening_s)
        except asyncio.CancelledError:
            self.opening_cancelled += 1
            raise
        if script.opening_error is not None:
            raise script.opening_error
        answer = FakeAnswer(f"session-{len(self.answers) + 1}", request, script)
        self.answers.append(answer)
        return answer

    async def bill(self, session_id: str, api_key: str) -> Bill | None:
        self._check_key(api_key)
        return None if self._bills is None else self._bills.get(session_id)

    def _check_key(self, api_key: str) -> None:
        if self._keys is not None and api_key not in self._keys:
            raise KeyRefused(401, "invalid_api_key", "The API key is wrong or revoked.")
