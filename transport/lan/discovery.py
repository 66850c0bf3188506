"""Who else is there: the seam between a node and whatever finds its neighbours.

A sighting is hearsay. It says where to knock; who opens is proved by TLS and nothing else.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol.identity import PeerId
from transport.address import Address

__all__ = ["Discovery", "OnFound", "OnLost", "Sighting", "cluster_tag"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A peer that somebody says is there."""

    peer_id: PeerId
    addresses: tuple[Address, ...]
    cluster: str
    """The `cluster_tag` it was heard with; empty where it was typed in."""


OnFound = Callable[[Sighting], None]
"""Called in the event loop for a new peer, and again when its addresses change."""

OnLost = Callable[[PeerId], None]
"""Called once when the peer said goodbye or has not been heard for its time."""


class Discovery(ABC):
    """Owned by the composition root; start it once, close it once, in one event loop."""

    @abstractmethod
    async def start(self, on_found: OnFound, on_lost: OnLost) -> None:
        """Begin to look. Raises nothing for a network that does not work yet: it goes on trying."""

    @abstractmethod
    def update(self, addresses: Sequence[Address]) -> None:
        """Where we can be reached now; announced soon, where anything is announced."""

    @abstractmethod
    async def close(self) -> None:
        """Say goodbye and stop; neither callback is called after it."""


def cluster_tag(name: str) -> str:
    """What is announced in place of the cluster's name, so a cafe's LAN does not read it.

    A hash and no secret: who guesses the name can check it. The cluster key keeps others out.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=16, person=b"piecework-lan")
    return digest.hexdigest()
