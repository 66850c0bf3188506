"""Who is said to serve: a cluster's membership, as late as a real one. Pure, the clock given."""

from random import Random
from typing import Final

__all__ = ["NOTICE_S", "Registry"]

NOTICE_S: Final = 5.0
"""From a machine's last word to the moment a house says that it is gone (SILENCE_S of
node/cluster/link.py): until then its announcement stands, and routes are planned over it."""


class Registry:
    """By name. Whoever is up is announced; whoever went is still announced for a while."""

    def __init__(self, notice_s: float = NOTICE_S) -> None:
        self._notice_s = notice_s
        self._down_since: dict[str, float | None] = {}

    def up(self, name: str) -> None:
        self._down_since[name] = None

    def down(self, name: str, now: float) -> None:
        if self._down_since.get(name) is None:
            self._down_since[name] = now

    def is_up(self, name: str) -> bool:
        return name in self._down_since and self._down_since[name] is None

    def announced(self, now: float, rng: Random) -> list[str]:
        """In an order of chance, so that routes differ."""
        names = sorted(
            name
            for name, since in self._down_since.items()
            if since is None or now < since + self._notice_s
        )
        rng.shuffle(names)
        return names
