"""What the real providers have carried, by their own word: each session at each hop, when it is
over there. What a hop carried beyond its receipts is what it has lost by a killed gateway."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.ledger_kills.journal import Journal, Line, read_journal
from benchmarks.ledger_kills.place import Place
from node.app.running import NotRunning, read_status

__all__ = ["HopWatch", "carried_by", "status_of"]

POLL_S = 3.0
"""A node remembers its last 64 sessions; there is about one a second."""

Hop = tuple[str, int]
"""Session id in hex, and index of the hop."""


def status_of(home: Path) -> dict[str, Any]:
    """The status page of the node there. Raises RuntimeError where none answers."""
    try:
        return asyncio.run(read_status(home))
    except NotRunning as error:
        raise RuntimeError(str(error)) from error


def carried_by(path: Path) -> dict[Hop, Line]:
    """Everything that was seen: `n` tokens and `a` nanos carried at each hop of each session."""
    return {(line["s"], line["h"]): line for line in read_journal(path)}


class HopWatch:
    """Writes down every session that ends at one of the nodes."""

    def __init__(self, place: Place, nodes: tuple[str, ...]) -> None:
        self._homes = [place.node_home(name) for name in nodes]
        self._journal = Journal(place.hops_journal)
        self._seen: set[Hop] = set()

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for home in self._homes:
                self._look(home)
            time.sleep(POLL_S)

    def _look(self, home: Path) -> None:
        try:
            recent = status_of(home)["recent"]
        except RuntimeError:
            return  # it starts, or leaves; whether all was seen is asked at the end
        new = [one for one in recent if (one["session_id"], one["hop_index"]) not in self._seen]
        self._seen |= {(one["session_id"], one["hop_index"]) for one in new}
        if new:
            self._journal.write(*map(_line, new))


def _line(report: dict[str, Any]) -> Line:
    return {
        "k": "hop", "s": report["session_id"], "h": report["hop_index"], "n": report["tokens"],
        "a": report["amount_nanos"], "o": report["outcome"],
    }  # fmt: skip
