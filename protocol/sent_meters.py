"""The meters a hop has sent in one session: what a receipt for it may say."""

from collections import deque

from protocol.frame import Meter
from protocol.receipt import Receipt

__all__ = ["METERS_KEPT_MAX", "SentMeters"]

METERS_KEPT_MAX = 256
"""Meters that a receipt may still answer: far more windows than a lease lends."""


class SentMeters:
    """The newest of them, those of earlier epochs too."""

    def __init__(self) -> None:
        self._meters: deque[Meter] = deque(maxlen=METERS_KEPT_MAX)

    def keep(self, meter: Meter) -> Meter:
        """Remember one that is about to be sent."""
        self._meters.append(meter)
        return meter

    def say(self, receipt: Receipt) -> bool:
        """Whether a receipt says what one of them says, to the byte and the hash.

        Anything else frames the hop before its neighbour, or cuts off what it earns later.
        """
        return any(_statement(receipt) == _statement(meter) for meter in reversed(self._meters))


def _statement(said: Meter | Receipt) -> tuple[object, ...]:
    return (
        said.epoch, said.steps, said.tokens, said.work,
        said.link_in_hash, said.link_out_hash, said.final,
    )  # fmt: skip
