"""Drafting over wide links: the packaged model on three kinds of text, and given acceptances.

Every text is written with and without drafts, and must be the same to the token. Both are timed
from the first token to the last, all answers of a kind together.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from benchmarks.wan.bed import GREEDY, Answer, Bed, Request
from benchmarks.wan.delay import Conditions
from benchmarks.wan.drafters import ScriptDrafter
from benchmarks.wan.engines import TINY, TINY_DIRECTORY, EngineChoice
from benchmarks.wan.figures import Figures, tell
from benchmarks.wan.texts import KINDS, Conversation
from node.head.drafting.base import Drafter
from node.head.drafting.kit import DraftingKit
from node.head.template import ChatTemplate
from node.head.tokenizer import Tokenizer
from protocol.tensor import WireDtype

__all__ = ["measure"]

FAR: Final = Conditions(delay_ms=30)
WIDE: Final = Conditions(delay_ms=30, uplink_mbit=100)
NARROW: Final = Conditions(delay_ms=30, uplink_mbit=20)
SCRIPTED_TOKENS: Final = 160
SCRIPTED_SKIP: Final = 24
"""Tokens before the rate is taken: the first steps learn how often drafts hold."""
ROUNDS: Final = 2
ANSWER_TOKENS_MAX: Final = 96
MARKS: Final = {"code": ">= 2.5 x", "summary": ">= 2.5 x", "chat": ">= 0.98 x"}


async def measure(figures: Figures) -> None:
    """About five minutes."""
    async with Bed.of(EngineChoice("8B")) as bed:
        for conditions in (WIDE, NARROW):
            await bed.set(conditions)
            for acceptance in (0.6, 0.8):
                is_marked = conditions is WIDE and acceptance == 0.8
                await _scripted(bed, figures, acceptance, ">= 25 tokens/s" if is_marked else "")
    async with Bed.of(EngineChoice(TINY)) as bed:
        await bed.set(FAR)
        for sealed, rounds in ((True, ROUNDS), (False, 1)):
            writer = Writer(bed)
            await writer.answers("chat", sealed=sealed, drafts=True)
            for kind, mark in MARKS.items():
                await _written(writer, figures, kind, mark, sealed=sealed, rounds=rounds)
        await bed.check_paths()


async def _scripted(bed: Bed, figures: Figures, acceptance: float, mark: str) -> None:
    """The roofline with drafts of a given acceptance, on a sealed route."""
    rates = []
    for seed in range(ROUNDS):
        request = Request(
            tuple(range(100, 116)), SCRIPTED_TOKENS, sealed=True,
            drafters=partial(_script, acceptance, seed),
        )  # fmt: skip
        with figures.watching(f"acceptance {acceptance:g}, {bed.conditions}"):
            answer = await bed.answer(request)
        rates.append(answer.rate(skip=SCRIPTED_SKIP))
        tell(f"acceptance {acceptance:g}: {rates[-1]:.1f} tokens/s, {_told(answer)}")
    workload = f"sealed 8B int8b32, {bed.hops} hops of 5.5 ms, {bed.conditions}"
    figures.add(f"drafting, acceptance {acceptance:g}", workload, rates, "tokens/s", mark)


def _script(acceptance: float, seed: int) -> tuple[ScriptDrafter]:
    return (ScriptDrafter(acceptance, seed=seed),)


class Writer:
    """Has the packaged model answer conversations one after another, and learns how drafts hold.

    As a head does: what one answer teaches about drafts, the next one knows.
    """

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._kit = DraftingKit()
        self._tokenizer = Tokenizer.from_directory(TINY_DIRECTORY)
        template = self._tokenizer.chat_template
        if template is None:
            raise RuntimeError("The packaged model has no chat template.")
        self._template = ChatTemplate(template, self._tokenizer.special_tokens)

    async def answers(self, kind: str, *, sealed: bool, drafts: bool) -> list[Answer]:
        request = Request(
            (), ANSWER_TOKENS_MAX, sealed=sealed, wire=WireDtype.FP32, eos=self._tokenizer.eos_ids,
            drafters=self._drafters if drafts else tuple, acceptance=self._kit.acceptance,
        )  # fmt: skip
        return [
            await self._bed.answer(replace(request, prompt=self._prompt(conversation)))
            for conversation in KINDS[kind]
        ]

    def _drafters(self) -> Sequence[Drafter]:
        manifest = self._bed.manifest
        return self._kit.drafters(
            GREEDY,
            capacity_tokens=manifest.context_tokens,
            vocabulary_size=manifest.vocabulary_size,
        )

    def _prompt(self, conversation: Conversation) -> tuple[int, ...]:
        messages = [
            {"role": "assistant" if turn % 2 else "user", "content": content}
            for turn, content in enumerate(conversation)
        ]
        return tuple(self._tokenizer.encode(self._template.render(messages)))


async def _written(
    writer: Writer, figures: Figures, kind: str, mark: str, *, sealed: bool, rounds: int
) -> None:
    """One kind of text with and without drafts, in turns."""
    route = "sealed" if sealed else "open"
    ratios, yields = [], []
    for _ in range(rounds):
        with figures.watching(f"{kind}, {route}"):
            plain = await writer.answers(kind, sealed=sealed, drafts=False)
            drafted = await writer.answers(kind, sealed=sealed, drafts=True)
        if [answer.tokens for answer in plain] != [answer.tokens for answer in drafted]:
            raise RuntimeError(f"Drafts have changed what was written: {kind}, {route}.")
        ratios.append(_rate(drafted) / _rate(plain))
        steps = sum(answer.drafting.trips - 1 for answer in drafted)
        yields.append(sum(len(answer.tokens) - 1 for answer in drafted) / steps)
        tell(f"{kind}, {route}: {_rate(plain):.2f} tokens/s without, {_rate(drafted):.2f} with")
    tokens = sum(len(answer.tokens) for answer in plain)
    workload = f"{len(plain)} answers, {tokens} tokens, {route} ring, 3 hops, {FAR}"
    figures.add(f"drafting on {kind}, against none", workload, ratios, "x", mark)
    figures.add(f"drafting on {kind}, tokens a step", workload, yields, "")


def _rate(answers: Sequence[Answer]) -> float:
    """Tokens a second behind the first, of all together."""
    count = sum(len(answer.tokens) - 1 for answer in answers)
    return count / sum(answer.times_s[-1] - answer.times_s[0] for answer in answers)


def _told(answer: Answer) -> str:
    drafting = answer.drafting
    return (
        f"{len(answer.tokens) / drafting.trips:.2f} tokens a step, {drafting.accepted} of "
        f"{drafting.drafted} drafted held, {drafting.void_steps} steps void"
    )
