"""The names under which this hop's engine keeps rows: a head's own, and nobody else's."""

import hashlib
from collections.abc import Iterable

from protocol.identity import PeerId

__all__ = ["scoped_prefix"]

_DOMAIN = b"piecework/prefix/head/v1"


def scoped_prefix(head: PeerId, hashes: Iterable[bytes]) -> tuple[bytes, ...]:
    """What `head` calls its blocks, as the engine knows them.

    A head may send any hash it likes, one that it saw elsewhere too. Bound to its proven PeerId it
    finds only rows that the same head left: two heads never meet, whatever they send.
    """
    scope = _DOMAIN + head.public_key
    return tuple(hashlib.sha256(scope + name).digest() for name in hashes)
