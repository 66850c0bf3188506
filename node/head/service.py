"""The head of this node: takes requests, opens sessions, and gives answers as they come."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from node.errors import ModelUnknown, PromptTooLong
from node.head.absent import AbsentPeers
from node.head.answer import AnswerRequest, Bill, ModelCard
from node.head.ends import Ends, OpenEnds, SealedEnds
from node.head.live_answer import LiveAnswer, Prompt
from node.head.live_session import LiveSession
from node.head.models import HeadModel
from node.head.prefix import Prefix, PrefixSecret
from node.head.record import SessionRecord
from node.head.session import RouteSession
from node.router.base import INSTALMENT_TOKENS, RoutePlan, Router, RouteRequest
from protocol.errors import HopFailed, NoRoute
from protocol.identity import PeerId
from protocol.tensor import WireDtype
from transport.base import Host

__all__ = ["HeadService"]

OUTPUT_TOKENS_DEFAULT = 1024
"""Answer length where a request names none: KV is reserved for it, and money by instalments."""
DRAFTED_SHARE = 2
"""One row may run in vain for so many of the answer: it is held from the buyer's balance too."""
OPEN_ATTEMPTS_MAX = 3
"""Routes tried before the first token; each without the hops that have failed."""

logger = logging.getLogger(__name__)


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
        instalment_tokens: int = INSTALMENT_TOKENS,
    ) -> None:
        """`instalment_tokens`: what of a long answer is paid for at once."""
        self._instalment_tokens = instalment_tokens
        self._host = host
        self._router = router
        self._models: Mapping[str, HeadModel] = {m.manifest.name: m for m in models}
        self._wire_dtype = wire_dtype
        self._sealed = sealed
        self._prefix_secret = PrefixSecret() if reuses_prefixes else None
        self._absent = AbsentPeers()
        self._background: set[asyncio.Task[None]] = set()
        self.answers: set[LiveAnswer] = set()
        """Those under way."""
        self._idle = asyncio.Event()
        self._idle.set()

    async def models(self) -> Sequence[ModelCard]:
        return [await self._card(model) for model in self._models.values()]

    async def answer(self, request: AnswerRequest) -> LiveAnswer:
        model = self._models.get(request.model)
        if model is None:
            known = ", ".join(self._models)
            raise ModelUnknown(request.model, hint=f"Served here: {known}.")
        tokens = await asyncio.to_thread(_prompt_tokens, model, request)
        max_tokens = _output_tokens(model, len(tokens), request.max_tokens)
        prompt = Prompt(model, tokens, max_tokens, request)
        for attempt in range(1, OPEN_ATTEMPTS_MAX + 1):
            plan, route_request = await self._plan(prompt)
            try:
                return await self._open(prompt, plan, route_request)
            except HopFailed as error:
                logger.warning("attempt %d: %s", attempt, error)
                if attempt == OPEN_ATTEMPTS_MAX:
                    raise
                failed = plan.route.hops[error.hop_index].peer_id
                self._absent.note(failed, time.monotonic())
        raise AssertionError("unreachable")

    async def _plan(self, prompt: Prompt) -> tuple[RoutePlan, RouteRequest]:
        """A route without those that are thought to be gone; with them where there is no other."""
        absent = self._absent.now(time.monotonic())
        request = self._route_request(prompt, absent)
        try:
            return await self._router.plan(request), self._route_request(prompt, ())
        except NoRoute:
            if not absent:
                raise
        request = self._route_request(prompt, ())
        return await self._router.plan(request), request

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

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what must not keep an answer waiting; `close` waits for it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _finish(
        self, session: LiveSession, ends: Ends, api_key: str, told: asyncio.Event, *, ok: bool
    ) -> None:
        """Free a session everywhere, then let its money be settled; `told` once hops know."""
        try:
            await session.close(cancelled=not ok)
            await ends.close()
        finally:
            told.set()
        await session.settle()
        await self._router.session_over(session.plan.session_id, api_key)

    async def _open(self, prompt: Prompt, plan: RoutePlan, request: RouteRequest) -> LiveAnswer:
        ends = self._ends(prompt)
        session = LiveSession(
            self._route_session(prompt, ends, plan, prefix=self._prefix(prompt, plan)),
            self._router,
            request,
            lambda plan, record, epoch, resume: self._route_session(
                prompt, ends, plan, record=record, epoch=epoch, resume=resume
            ),
            self._absent,
        )
        try:
            await ends.open()
            await session.open()
        except BaseException:
            key = prompt.request.api_key
            self._in_background(self._finish(session, ends, key, asyncio.Event(), ok=False))
            raise
        return self._begin(prompt, session, ends)

    def _begin(self, prompt: Prompt, session: LiveSession, ends: Ends) -> LiveAnswer:
        def finish(ok: bool) -> asyncio.Event:
            told = asyncio.Event()
            self.answers.discard(answer)
            if not self.answers:
                self._idle.set()
            key = prompt.request.api_key
            self._in_background(self._finish(session, ends, key, told, ok=ok))
            return told

        answer = LiveAnswer(prompt, session, ends, finish)
        self.answers.add(answer)
        self._idle.clear()
        return answer

    def _route_session(
        self,
        prompt: Prompt,
        ends: Ends,
        plan: RoutePlan,
        *,
        prefix: Prefix | None = None,
        record: SessionRecord | None = None,
        epoch: int = 0,
        resume: int = 0,
    ) -> RouteSession:
        return RouteSession(
            self._host,
            plan,
            prompt.model.manifest,
            ends,
            wire_dtype=self._wire_dtype,
            capacity_tokens=len(prompt.tokens) + prompt.max_tokens,
            sampling=prompt.request.sampling,
            eos=sorted(prompt.model.tokenizer.eos_ids),
            prefix=prefix,
            record=record,
            epoch=epoch,
            resume=resume,
        )

    def _ends(self, prompt: Prompt) -> Ends:
        if not self._sealed:
            return OpenEnds()
        assert prompt.model.ends is not None
        return SealedEnds(
            prompt.model.ends,
            wire_dtype=self._wire_dtype,
            sampling=prompt.request.sampling,
            capacity_tokens=len(prompt.tokens) + prompt.max_tokens,
        )

    def _prefix(self, prompt: Prompt, plan: RoutePlan) -> Prefix | None:
        if self._prefix_secret is None:
            return None
        manifest_hash = prompt.model.manifest.manifest_hash
        root = self._prefix_secret.root(
            prompt.request.api_key, plan, manifest_hash, self._wire_dtype
        )
        return Prefix(root, prompt.tokens)

    def _route_request(self, prompt: Prompt, denied: tuple[PeerId, ...]) -> RouteRequest:
        funded = _first_instalment(prompt, self._instalment_tokens)
        drafted_of = prompt.max_tokens if funded is None else funded
        return RouteRequest(
            manifest=prompt.model.manifest,
            prompt_tokens=len(prompt.tokens),
            max_tokens=prompt.max_tokens,
            wire_dtype=self._wire_dtype,
            sealed=self._sealed,
            api_key=prompt.request.api_key,
            deny=denied,
            drafted_tokens=drafted_of // DRAFTED_SHARE if prompt.model.drafting else 0,
            funded_tokens=funded,
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


def _prompt_tokens(model: HeadModel, request: AnswerRequest) -> list[int]:
    return model.tokenizer.encode(model.template.render(request.messages))


def _first_instalment(prompt: Prompt, instalment: int) -> int | None:
    """What of the answer is paid for at first; None: all of it.

    Whoever names a small bound means it, and is told at once where the balance does not cover it;
    any other answer mostly ends long before its bound, which would be held for nothing meanwhile.
    """
    if prompt.max_tokens > instalment:
        return instalment
    return prompt.max_tokens if prompt.request.max_tokens is None else None


def _output_tokens(model: HeadModel, prompt_tokens: int, asked: int | None) -> int:
    """How many tokens the answer may have; raises PromptTooLong."""
    context = model.manifest.context_tokens
    room = context - prompt_tokens
    max_tokens = min(OUTPUT_TOKENS_DEFAULT, room) if asked is None else asked
    if max_tokens > room or room <= 0:
        raise PromptTooLong(prompt_tokens, max(max_tokens, 1), context)
    return max_tokens
