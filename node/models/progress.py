"""What a fetch tells while it runs, and the sums that a progress bar or a page shows."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = [
    "FetchEvent",
    "FetchProgress",
    "Listener",
    "Planned",
    "Received",
    "SourceDropped",
    "TensorVerified",
    "Told",
]


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be fetched, and what was there before, in bytes of weights."""

    missing_bytes: int
    there_bytes: int
    tensors: int


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes came from a source; they are not verified yet."""

    source: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorVerified:
    """A whole tensor is on the disk and hashed (and, with a manifest, found right)."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SourceDropped:
    """A source is not asked any more, or not for now."""

    source: str
    reason: str
    is_for_good: bool


@dataclass(frozen=True, slots=True)
class Told:
    """A sentence for the person who waits."""

    message: str


FetchEvent = Planned | Received | TensorVerified | SourceDropped | Told
Listener = Callable[[FetchEvent], None]
"""Called in the event loop, many times a second: it must be quick."""


@dataclass(slots=True)
class FetchProgress:
    """A listener that adds up."""

    missing_bytes: int = 0
    there_bytes: int = 0
    tensors: int = 0
    received_bytes: Counter[str] = field(default_factory=Counter)
    """By source; more than was missing where something had to be fetched twice."""
    verified_bytes: int = 0
    verified_tensors: int = 0

    def __call__(self, event: FetchEvent) -> None:
        match event:
            case Planned():
                self.missing_bytes = event.missing_bytes
                self.there_bytes = event.there_bytes
                self.tensors = event.tensors
            case Received():
                self.received_bytes[event.source] += event.count
            case TensorVerified():
                self.verified_bytes += event.size_bytes
                self.verified_tensors += 1
