"""The head of this node: takes requests, opens sessions, and gives answers as they come."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.errors import ModelUnknown, PromptTooLong
from node.head.answer import AnswerRequest, Bill, Delta, FinishReason, HopReport, ModelCard
from node.head.detokenizer import TextStream
from node.head.ends import Ends, OpenEnds, SealedEnds
from node.head.generate import generate
from node.head.models import HeadModel
from node.head.prefix import Prefix, PrefixSecret
from node.head.session import RouteSession
from node.router.base import RoutePlan, Router, RouteRequest
from protocol.errors import HopFailed
from protocol.identity import PeerId
from protocol.tensor import WireDtype
from transport.base import Host

__all__ = ["HeadService", "LiveAnswer"]

OUTPUT_TOKENS_DEFAULT = 1024
"""Answer length where a request names none: it is what gets held from the buyer's balance."""
OPEN_ATTEMPTS_MAX = 3
"""Routes tried before the first token; each without the hops that have failed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A request as tokens, bounded by the model's context."""

    model: HeadModel
    tokens: Sequence[int]
    max_tokens: int
    request: AnswerRequest


class HeadService:
    """Implements answer.Head. Owns the sessions it opens, not the host, router or models."""

    def __init__(
        self,
        host: Host,
        router: Router,
        models: Sequence[HeadModel],
        *,
        wire_dtype: WireDtype,
        sealed: bool = True,
        reuses_prefixes: bool = True,
    ) -> None:
        self._host = host
        self._router = router
        self._models: Mapping[str, HeadModel] = {m.manifest.name: m for m in models}
        self._wire_dtype = wire_dtype
        self._sealed = sealed
        self._prefix_secret = PrefixSecret() if reuses_prefixes else None
        self._background: set[asyncio.Task[None]] = set()
        self.answers: set[LiveAnswer] = set()
        """Those under way."""
        self._idle = asyncio.Event()
        self._idle.set()

    async def models(self) -> Sequence[ModelCard]:
        return [await self._card(model) for model in self._models.values()]

    async def answer(self, request: AnswerRequest) -> "LiveAnswer":
        model = self._models.get(request.model)
        if model is None:
            known = ", ".join(self._models)
            raise ModelUnknown(request.model, hint=f"Served here: {known}.")
        tokens = await asyncio.to_thread(_prompt_tokens, model, request)
        max_tokens = _output_tokens(model, len(tokens), request.max_tokens)
        prompt = _Prompt(model, tokens, max_tokens, request)
        denied: tuple[PeerId, ...] = ()
        for attempt in range(1, OPEN_ATTEMPTS_MAX + 1):
            plan = await self._router.plan(self._route_request(prompt, denied))
            try:
                return await self._open(prompt, plan)
            except HopFailed as error:
                logger.warning("attempt %d: %s", attempt, error)
                if attempt == OPEN_ATTEMPTS_MAX:
                    raise
                denied += (plan.route.hops[error.hop_index].peer_id,)
        raise AssertionError("unreachable")

    async def bill(self, session_id: str, api_key: str) -> Bill | None:
        charged = await self._router.charged(bytes.fromhex(session_id), api_key)
        return Bill(*charged) if charged else None

    async def close(self) -> None:
        """Cancel what runs and wait until every session is closed and settled."""
        await asyncio.gather(*(answer.aclose() for answer in list(self.answers)))
        await asyncio.gather(*self._background, return_exceptions=True)

    async def wait_idle(self) -> None:
        """Until no answer is under way."""
        await self._idle.wait()

    def answer_over(self, answer: "LiveAnswer") -> None:
        self.answers.discard(answer)
        if not self.answers:
            self._idle.set()

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what must not keep an answer waiting; `close` waits for it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def finish(
        self, session: RouteSession, ends: Ends, api_key: str, told: asyncio.Event, *, ok: bool
    ) -> None:
        """Free a session everywhere, then let its money be settled; `told` once hops know."""
        try:
            await session.close(cancelled=not ok)
            await ends.close()
        finally:
            told.set()
        await session.settle()
        await self._router.session_over(session.plan.session_id, api_key)

    async def _open(self, prompt: _Prompt, plan: RoutePlan) -> "LiveAnswer":
        session = RouteSession(
            self._host,
            plan,
            prompt.model.manifest,
            wire_dtype=self._wire_dtype,
            capacity_tokens=len(prompt.tokens) + prompt.max_tokens,
            sampling=prompt.request.sampling,
            prefix=self._prefix(prompt, plan),
        )
        ends = self._ends(prompt)
        try:
            await ends.open()
            await session.open()
        except BaseException:
            key = prompt.request.api_key
            self.in_background(self.finish(session, ends, key, asyncio.Event(), ok=False))
            raise
        answer = LiveAnswer(self, prompt, session, ends)
        self.answers.add(answer)
        self._idle.clear()
        return answer

    def _ends(self, prompt: _Prompt) -> Ends:
        if not self._sealed:
            return OpenEnds()
        assert prompt.model.ends is not None
        return SealedEnds(
            prompt.model.ends,
            wire_dtype=self._wire_dtype,
            sampling=prompt.request.sampling,
            capacity_tokens=len(prompt.tokens) + prompt.max_tokens,
        )

    def _prefix(self, prompt: _Prompt, plan: RoutePlan) -> Prefix | None:
        if self._prefix_secret is None:
            return None
        manifest_hash = prompt.model.manifest.manifest_hash
        root = self._prefix_secret.root(
            prompt.request.api_key, plan, manifest_hash, self._wire_dtype
        )
        return Prefix(root, prompt.tokens)

    def _route_request(self, prompt: _Prompt, denied: tuple[PeerId, ...]) -> RouteRequest:
        return RouteRequest(
            manifest=prompt.model.manifest,
            prompt_tokens=len(prompt.tokens),
            max_tokens=prompt.max_tokens,
            wire_dtype=self._wire_dtype,
            sealed=self._sealed,
            api_key=prompt.request.api_key,
            deny=denied,
        )

    async def _card(self, model: HeadModel) -> ModelCard:
        manifest = model.manifest
        availability = await self._router.availability(manifest)
        return ModelCard(
            id=manifest.name,
            context_tokens=manifest.context_tokens,
            created_s=model.loaded_at_s,
            available=availability.available,
            prompt_nanos_per_million_tokens=availability.prompt_nanos_per_million_tokens,
            completion_nanos_per_million_tokens=availability.completion_nanos_per_million_tokens,
            details={"manifest_hash": manifest.manifest_hash.hex(), "family": manifest.family},
        )


class LiveAnswer:
    """Implements answer.Answer over one open session. Iterate it once."""

    def __init__(
        self, service: HeadService, prompt: _Prompt, session: RouteSession, ends: Ends
    ) -> None:
        self.session_id = session.plan.session_id.hex()
        self.model = prompt.model.manifest.name
        self.prompt_tokens = len(prompt.tokens)
        self.cached_tokens = session.cached_tokens
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.hops = _hop_reports(session)
        self._service = service
        self._prompt = prompt
        self._session = session
        self._ends = ends
        self._text = TextStream(prompt.model.tokenizer, prompt.request.stop)
        self._told: asyncio.Event | None = None
        """Set when every hop knows that the session is over; None while it runs."""

    async def __aiter__(self) -> AsyncIterator[Delta]:
        tokens = generate(
            self._session,
            self._ends,
            self._prompt.tokens,
            max_tokens=self._prompt.max_tokens,
            eos=self._prompt.model.tokenizer.eos_ids,
        )
        try:
            silent = 0
            async for token in tokens:
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

    async def aclose(self) -> None:
        await self._finish(ok=self.finish_reason is not None).wait()

    def _finish(self, *, ok: bool) -> asyncio.Event:
        """Begin to close the session, once; CLOSE leaves for every hop at once."""
        if self._told is None:
            self._told = asyncio.Event()
            self._service.answer_over(self)
            key = self._prompt.request.api_key
            self._service.in_background(
                self._service.finish(self._session, self._ends, key, self._told, ok=ok)
            )
        return self._told


def _prompt_tokens(model: HeadModel, request: AnswerRequest) -> list[int]:
    return model.tokenizer.encode(model.template.render(request.messages))


def _output_tokens(model: HeadModel, prompt_tokens: int, asked: int | None) -> int:
    """How many tokens the answer may have; raises PromptTooLong."""
    context = model.manifest.context_tokens
    room = context - prompt_tokens
    max_tokens = min(OUTPUT_TOKENS_DEFAULT, room) if asked is None else asked
    if max_tokens > room or room <= 0:
        raise PromptTooLong(prompt_tokens, max(max_tokens, 1), context)
    return max_tokens


def _hop_reports(session: RouteSession) -> tuple[HopReport, ...]:
    """Where it runs. A hop's path kind is that of the link it receives on."""
    incoming = [session.head_path_kind, *(opened.path_kind for opened in session.opened)]
    return tuple(
        HopReport(str(hop.peer_id), str(hop.span), opened.backend, path_kind)
        for hop, opened, path_kind in zip(
            session.plan.route.hops, session.opened, incoming, strict=False
        )
    )
