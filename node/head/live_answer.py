"""One answer as it comes: tokens out of the session, text out of tokens."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from node.head.answer import AnswerRequest, Delta, FinishReason, HopReport, Travel
from node.head.detokenizer import TextStream
from node.head.drafting.base import DraftingStatistics
from node.head.ends import Ends
from node.head.generate import PREFILL_CHUNK_TOKENS, WAN_PREFILL_CHUNK_TOKENS, generate
from node.head.instalments import AnswerUnfunded
from node.head.live_session import LiveSession, RouteTrace
from node.head.models import HeadModel

__all__ = ["LiveAnswer", "Prompt"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as tokens, bounded by the model's context."""

    model: HeadModel
    tokens: Sequence[int]
    max_tokens: int
    request: AnswerRequest


class LiveAnswer:
    """Implements answer.Answer over one open session. Iterate it once."""

    def __init__(
        self,
        prompt: Prompt,
        session: LiveSession,
        ends: Ends,
        finish: Callable[[bool], asyncio.Event],
    ) -> None:
        """`finish(ok)` begins to close the session; the event tells when every hop knows."""
        self.session_id = session.plan.session_id.hex()
        self.model = prompt.model.manifest.name
        self.prompt_tokens = len(prompt.tokens)
        self.cached_tokens = session.cached_tokens
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stopped_by: str | None = None
        self._drafting = DraftingStatistics()
        self._prompt = prompt
        self._session = session
        self._ends = ends
        self._begin_finish = finish
        self._text = TextStream(prompt.model.tokenizer, prompt.request.stop)
        self._told: asyncio.Event | None = None
        """Set when every hop knows that the session is over; None while it runs."""

    @property
    def hops(self) -> tuple[HopReport, ...]:
        """Where it runs or has run: every hop that has seen it, each once."""
        reports = [report for trace in self._session.traces for report in _hop_reports(trace)]
        return tuple(dict.fromkeys(reports))

    @property
    def travel(self) -> Travel:
        drafting = self._drafting
        return Travel(drafting.trips, drafting.drafted, drafting.accepted, self._session.repairs)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        tokens = self._generate()
        try:
            silent = 0
            async for token in self._paid_for(tokens):
                self.completion_tokens += 1
                silent += 1
                if text := self._text.push(token):
                    yield Delta(text, silent)
                    silent = 0
                if self._text.is_stopped:
                    break
                if token in self._prompt.model.tokenizer.eos_ids:
                    self.finish_reason = FinishReason.STOP
            if self._text.is_stopped:
                self.finish_reason = FinishReason.STOP
            rest = self._text.flush()
            self.finish_reason = self.finish_reason or FinishReason.LENGTH
            self._finish(ok=True)
            if rest or silent:
                yield Delta(rest, silent)
        finally:
            await tokens.aclose()
            self._finish(ok=False)

    async def _paid_for(self, tokens: AsyncIterator[int]) -> AsyncIterator[int]:
        """The tokens as far as they are paid for: what lacks money ends, and is no error."""
        try:
            async for token in tokens:
                yield token
        except AnswerUnfunded as error:
            logger.info("an answer ends after %d tokens: %s", self.completion_tokens, error)
            self.stopped_by = error.reason

    def _generate(self) -> AsyncGenerator[int, None]:
        prompt, session = self._prompt, self._session
        manifest = prompt.model.manifest
        return generate(
            session,
            self._ends,
            prompt.tokens,
            max_tokens=prompt.max_tokens,
            eos=prompt.model.tokenizer.eos_ids,
            drafters=prompt.model.drafting.drafters(
                prompt.request.sampling,
                capacity_tokens=len(prompt.tokens) + prompt.max_tokens,
                vocabulary_size=manifest.vocabulary_size,
            ),
            pace=prompt.model.drafting.pace(len(session.plan.route.hops)),
            loops=session.loops,
            spare_rows=session.spare_rows,
            funding=lambda: session.funding,
            chunk_tokens=PREFILL_CHUNK_TOKENS if session.is_near else WAN_PREFILL_CHUNK_TOKENS,
            statistics=self._drafting,
        )

    async def aclose(self) -> None:
        await self._finish(ok=self.finish_reason is not None).wait()

    def _finish(self, *, ok: bool) -> asyncio.Event:
        """Begin to close the session, once; CLOSE leaves for every hop at once."""
        if self._told is None:
            self._told = self._begin_finish(ok)
        return self._told


def _hop_reports(trace: RouteTrace) -> list[HopReport]:
    """One route's hops. A hop's path kind is that of the link it receives on."""
    incoming = [trace.head_path_kind, *(opened.path_kind for opened in trace.opened)]
    return [
        HopReport(str(hop.peer_id), str(hop.span), opened.backend, path_kind)
        for hop, opened, path_kind in zip(
            trace.plan.route.hops, trace.opened, incoming, strict=False
        )
    ]
