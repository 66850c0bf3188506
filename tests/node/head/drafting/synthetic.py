"""Models whose tokens are known beforehand, and drafters that err as often as they are told to."""

import asyncio
from contextlib import aclosing

import numpy as np

from node.head.drafting.base import Draft, DraftingStatistics
from node.head.drafting.pace import Pace
from node.head.ends import OpenEnds
from node.head.generate import generate
from tests.node.head.drafting.fake_session import FakeRing, FakeSession
from tests.node.head.drafting.virtual import clock, run_virtual

WRONG = 1_000


def counted(rows):
    """A model that says where it is: what drafts make of it depends on the drafter alone."""
    return (len(rows) * 7919) % 97


class SyntheticDrafter:
    """Right with chance `right`, token by token. `token_s`: what a token takes; 0: it looks it up.

    A token that has been drafted behind some tokens is drafted there again, and takes nothing.
    """

    def __init__(self, draw=counted, *, right=1.0, token_s=0.0, seed=0, source="model"):
        self.works = token_s > 0
        self.is_open = False
        self.opened = 0
        self.confirmed = []
        self._draw = draw
        self._right = right
        self._token_s = token_s
        self._random = np.random.default_rng(seed)
        self._source = source
        self._made = {}

    async def open(self):
        self.opened += 1
        await asyncio.sleep(self._token_s)
        self.is_open = True

    def confirm(self, tokens):
        self.confirmed += tokens

    def source(self, branch):
        return self._source

    async def propose(self, branch, count):
        assert self.is_open
        known = min(len(branch), len(self.confirmed))
        assert branch[:known] == self.confirmed[:known]
        tokens = []
        for _ in range(count):
            rows = (*branch, *tokens)
            key = hash(rows)
            if key not in self._made:
                if self._token_s:
                    await asyncio.sleep(self._token_s)
                wrong = self._random.random() >= self._right
                self._made[key] = self._draw(rows) + WRONG * wrong
            tokens.append(self._made[key])
        return Draft(tuple(tokens), self._source)

    async def close(self):
        self.is_open = False


async def collect(session, prompt, ends=None, **settings):
    """Every token of an answer, in virtual time."""
    async with aclosing(
        generate(session, ends or OpenEnds(), prompt, clock=clock, **settings)
    ) as tokens:
        return [token async for token in tokens]


def measure(ring, drafters=(), *, tokens=400, prompt=None, draw=counted, loops=False):
    """Tokens a second behind the prompt over such a ring, and what drafting came to."""
    prompt = prompt or [n % 97 for n in range(60)]

    def seconds(count, statistics):
        async def main():
            session = FakeSession(draw, capacity_tokens=len(prompt) + count, ring=FakeRing(**ring))
            await collect(
                session, prompt, max_tokens=count, eos=frozenset(), loops=loops,
                drafters=[make() for make in drafters], statistics=statistics,
                pace=Pace(hop_count=ring.get("hops", 3)),
            )  # fmt: skip

        return run_virtual(main)[1]

    statistics = DraftingStatistics()
    whole_s = seconds(tokens, statistics)
    return (tokens - 1) / (whole_s - seconds(1, DraftingStatistics())), statistics
