"""Random answers on random routes: hops die at any moment, are replaced, forget, or stay."""

import asyncio
import random

import numpy as np
import pytest

from protocol.frame import Result
from tests.node.serve.rig import (
    VOCABULARY,
    expected_tokens,
    make_rig,
    spans,
    wait_freed,
)
from tests.node.serve.scripted_head import ScriptedHead, drawn
from transport.testing import run_virtual

ANSWER = 24
STORIES = 60


class Story:
    """One answer, and what its head does: all as the dice fall."""

    def __init__(self, rig, directory, dice: random.Random) -> None:
        self.rig, self.dice = rig, dice
        hop_count = dice.choice([1, 2, 3, 4])
        route = rig.providers(
            hop_count,
            step_delay_s=dice.choice([0, 0.003]),
            budget_bytes=dice.choice([0, 2000, 1 << 20]),
        )
        self.head = ScriptedHead(rig, route, loop=True)
        self.prompt = [dice.randrange(VOCABULARY) for _ in range(dice.choice([5, 40, 300]))]
        self.tokens: list[int] = []
        self.steps = 0
        """Results of this epoch."""
        self.standbys = {}
        if hop_count > 1 and dice.random() < 0.6:
            index = dice.randrange(1, hop_count)
            self.standbys[index] = rig.provider(spans(hop_count)[index])
        self.expected = expected_tokens(directory, self.prompt, 2 * ANSWER)

    async def tell(self) -> None:
        await self.open()
        await self.head.wait_opened()
        while len(self.tokens) < ANSWER:
            await self.dice.choice(
                [self.decode, self.decode, self.verify, self.loop, self.repair]
            )()
            assert self.tokens == self.expected[: len(self.tokens)]
        everybody = {*self.head.route, *self.standbys.values()}
        await self.head.close(steps=self.steps, whom=everybody)
        await wait_freed(*everybody)

    @property
    def due(self) -> list[int]:
        """Tokens that have not gone round yet."""
        return [*self.prompt, *self.tokens][self.head.position :]

    @property
    def results(self) -> int:
        return self.head.lines[self.head.route[-1]].count(Result)

    async def open(self, forget=frozenset(), **change) -> None:
        """OPEN to all, standbys first."""
        changes = {index: {"forget": True} for index in forget}
        for index, standby in self.standbys.items():
            mirror = {"mirror": standby.peer_id, "mirror_addresses": standby.addresses}
            changes[index - 1] = changes.get(index - 1, {}) | mirror
            line = await self.head.line(standby)
            await line.send(self.head.frame(index, standby=True, **change))
        await self.head.send_opens(changes, **change)

    async def decode(self) -> None:
        self.tokens.append(await self.head.decode(self.due))
        self.steps += 1

    async def loop(self) -> None:
        seen, asked = self.results, self.dice.randrange(1, 6)
        await self.head.step(self.due, loop=asked)
        for count in range(asked + 1):
            self.tokens.append(drawn(await self.head.result(seen + count + 1)))
        self.head.position += asked
        self.steps += asked + 1

    async def verify(self) -> None:
        """A draft that is wrong in its first token (or right by chance)."""
        seen, keep = self.results, self.head.position + len(self.due)
        draft = [self.dice.randrange(VOCABULARY) for _ in range(self.dice.randrange(1, 4))]
        await self.head.step([*self.due, *draft], wanted=1 + len(draft))
        result = await self.head.result(seen + 1)
        self.tokens.append(int(np.frombuffer(result.payload, "<i4")[0]))
        self.steps += 1
        await self.head.truncate(keep)

    async def repair(self) -> None:
        resume = self.head.position
        if resume == 0 or self.head.epoch > 12:
            return
        for _ in range(self.dice.randrange(3)):
            await self.head.step([self.dice.randrange(VOCABULARY)])  # will not have arrived
        await self.pause()
        await self.replace_hops()
        for _ in range(self.dice.randrange(3)):
            await self.reopen(resume)  # and does not wait
            await self.pause()
        forget = frozenset()
        while True:
            await self.reopen(resume, forget)
            opened = await self.head.wait_opened()
            unable = self.unable(opened, resume)
            if not unable:
                break
            forget |= unable
        self.head.position = resume
        have = opened[0].cached_tokens
        while have < resume:
            stop = min(have + self.dice.choice([1, 7, 200]), resume)
            await self.head.replay(have, [*self.prompt, *self.tokens][have:stop])
            have = stop

    async def reopen(self, resume: int, forget=frozenset()) -> None:
        self.head.epoch += 1
        await self.open(forget, resume=resume, steps=self.steps)
        self.steps = 0

    async def replace_hops(self) -> None:
        route = self.head.route
        for index, hop in enumerate(route):
            if self.dice.random() < 0.4:
                if self.dice.random() < 0.7:
                    await self.rig.network.kill(hop.peer_id, silent=False)
                fresh = self.rig.provider(hop.span, budget_bytes=self.dice.choice([0, 1 << 20]))
                route[index] = self.standbys.pop(index, fresh)

    @staticmethod
    def unable(opened, resume: int) -> frozenset[int]:
        """As HeadSession.unable: hops that cannot replay what the next one lacks."""
        unable, lacking_from = set(), resume
        for index in reversed(range(len(opened))):
            rows = opened[index].cached_tokens
            if opened[index].replay_from > lacking_from and rows > lacking_from:
                unable.add(index)
                rows = 0
            lacking_from = rows
        return frozenset(unable)

    async def pause(self) -> None:
        await asyncio.sleep(self.dice.choice([0, 0, 0.001, 0.03]))


@pytest.mark.parametrize("seed", range(STORIES))
def test_the_answer_is_the_one_it_would_have_been(tmp_path, seed):
    async def story() -> None:
        dice = random.Random(seed)
        async with make_rig(tmp_path, delay_s=dice.choice([0, 0.001, 0.02]), seed=seed) as rig:
            await Story(rig, tmp_path, dice).tell()

    run_virtual(story())
