"""Finding: one thing that a check of this machine's network came to, for `piecework doctor`."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Level"]


class Level(StrEnum):
    """How much it matters."""

    OK = "ok"
    WARN = "warn"
    """Works, but worse than it could."""
    FAIL = "fail"
    """Something that a person wants does not work until this is mended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what a person can do about it."""

    name: str
    """Which check, in kebab-case and always the same: `multicast-loopback`."""
    level: Level
    text: str
    """What was found, in one sentence."""
    fix: str = ""
    """What to do, in one sentence; empty when the level is OK."""
