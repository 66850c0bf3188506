"""The names of a session's leading rows, so that hops which kept them need not run them again.

A row of KV is decided by the tokens up to it and by what computed it. So the rows are named block
by block in a hash chain over the tokens, whose root stands for all else:

    root   = HMAC-SHA256(tenant secret; domain, manifest hash, wire dtype, sealed, the route's hops)
    hash i = SHA-256(hash i-1, the tokens of block i as int32 little-endian); hash -1 is the root

Equal hashes mean equal rows, and equal hashes mean an equal beginning all the way back. On the wire
a hash is cut to PREFIX_HASH_BYTES. The route is in the root because rows that were computed behind
another hop, with other numerics or by a liar, are other rows.

The tenant secret is the reason why the names tell nothing. It is made of a key that this process
draws at its start and never shows, and of whoever asks (his API key; the user of this machine where
there is none). Without it nobody, hop or other tenant, can compute the name of a text he guesses,
and so neither recognise a text by its name nor find out by the clock whether another tenant has
sent it: two tenants' names never meet, so neither is ever quicker for what the other did. A hop
does see that two sessions of one tenant begin alike. After a restart of the head all names are new.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence

import numpy as np

from node.router.base import RoutePlan
from protocol.limits import PREFIX_BLOCK_TOKENS, PREFIX_BLOCKS_MAX, PREFIX_HASH_BYTES
from protocol.record import encode_canonical
from protocol.tensor import WireDtype

__all__ = ["Prefix", "PrefixSecret", "prefix_hashes"]

_ROOT_DOMAIN = b"piecework/prefix/v1"
_TENANT_DOMAIN = b"piecework/prefix/tenant/v1"
_SECRET_BYTES = 32


class PrefixSecret:
    """The key of one head process, and what it makes of tenants. `key` only for tests."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(_SECRET_BYTES)

    def root(
        self, api_key: str, plan: RoutePlan, manifest_hash: bytes, wire_dtype: WireDtype
    ) -> bytes:
        """What all rows of this tenant behind this route have in common; 32 bytes."""
        hops = [[h.peer_id.public_key, h.span.start, h.span.end] for h in plan.route.hops]
        behind = [
            manifest_hash, wire_dtype.value, plan.route.sealed, hops, list(plan.backends)
        ]  # fmt: skip
        message = _ROOT_DOMAIN + encode_canonical(behind)
        return hmac.digest(self._tenant_secret(api_key), message, "sha256")

    def _tenant_secret(self, api_key: str) -> bytes:
        """An empty key is the user of this machine."""
        identity = hashlib.sha256(api_key.encode()).digest()
        return hmac.digest(self._key, _TENANT_DOMAIN + identity, "sha256")


class Prefix:
    """The rows of one session by name: which are offered at its start, and kept at its end."""

    def __init__(self, root: bytes, prompt: Sequence[int]) -> None:
        # the last row of a prompt is always run: its output is the first token of the answer
        self.offered = prefix_hashes(root, prompt[:-1])
        """For OPEN."""
        self._root = root
        self._tokens = list(prompt)

    def record(self, position: int, tokens: Iterable[int]) -> None:
        """From `position` on the session's rows are those of `tokens`."""
        del self._tokens[position:]
        self._tokens += tokens

    def kept(self, rows: int) -> tuple[bytes, ...]:
        """For CLOSE: the blocks of the first `rows` rows."""
        return prefix_hashes(self._root, self._tokens[:rows])


def prefix_hashes(root: bytes, tokens: Sequence[int]) -> tuple[bytes, ...]:
    """One hash for each whole block of `tokens`, at most PREFIX_BLOCKS_MAX of them."""
    count = min(len(tokens) // PREFIX_BLOCK_TOKENS, PREFIX_BLOCKS_MAX)
    rows = np.asarray(tokens[: count * PREFIX_BLOCK_TOKENS], dtype="<i4")
    hashes, link = [], root
    for block in rows.reshape(count, PREFIX_BLOCK_TOKENS):
        link = hashlib.sha256(link + block.tobytes()).digest()
        hashes.append(link[:PREFIX_HASH_BYTES])
    return tuple(hashes)
