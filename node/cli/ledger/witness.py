"""`piecework ledger witness`: cosign the log, once or for as long as it runs."""

import asyncio
import json
import sys
import time
from pathlib import Path

from node.app.witness import LogWitness, Witnessed
from node.cli.ledger.trust import pinned_terms
from node.cli.options import home_path
from node.cli.program import run_service, run_task, tell
from node.config import Home
from node.market_client import MarketClient

__all__ = ["witness_log"]


def witness_log(*, market: str, once: bool, home: Path | None, as_json: bool) -> None:
    """Exit 1 where the log does not continue what this home has seen of it."""
    own = Home(home_path(home))
    key = own.load_or_create_key()

    async def look() -> Witnessed:
        async with MarketClient(market, key) as client:
            terms = await pinned_terms(client, home, "")
            return await LogWitness(own, key, client, terms.peer_id, clock=time.time).look()

    async def watch(stop: asyncio.Event) -> None:
        async with MarketClient(market, key) as client:
            terms = await pinned_terms(client, home, "")
            witness = LogWitness(own, key, client, terms.peer_id, clock=time.time)
            tell(f"witnessing the log of {client.url} as {key.peer_id}")
            task = asyncio.create_task(witness.watch(tell))
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for waiting in (task, stopped):
                waiting.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    if not once:
        run_service(watch)
        return
    seen = run_task(look)
    if as_json:
        value = {"schema": 1, "size": seen.size, "root": seen.root.hex(), "line": seen.line}
        sys.stdout.write(json.dumps({**value, "posted": seen.posted}) + "\n")
    else:
        where = "handed in" if seen.posted else "not handed in: there are witnesses enough"
        sys.stdout.write(f"cosigned {seen.size} entries, root {seen.root.hex()}; {where}\n")
