"""The gate before every service: how often and how many at once one peer may ask.

Owned by the event loop; one for the whole program, so that a peer cannot ask each service in turn.
"""

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.relay_messages import RefusalCode
from relay.errors import RequestRefused, limit_reached
from relay.refusals import Refusals
from relay.resources import CircuitLimits
from relay.token_bucket import TokenBucket

__all__ = ["RequestGate"]

PENDING_PER_PEER_MAX: Final = 16
"""Requests that have begun and are not whole yet; an honest one is whole in one packet."""


class RequestGate:
    """Counts refusals of every service too."""

    def __init__(self, limits: CircuitLimits) -> None:
        self.refusals = Refusals()
        self.is_draining = False
        """Set by the composition root at SIGTERM: nothing new is granted."""
        self._limits = limits
        self._buckets: OrderedDict[PeerId, TokenBucket] = OrderedDict()
        """The longest unheard first."""
        self._pending: Counter[PeerId] = Counter()

    def admit(self, peer: PeerId) -> None:
        """Before each request is answered. Raises RequestRefused."""
        if self.is_draining:
            raise RequestRefused(
                "draining", "The relay is shutting down.", RefusalCode.RESOURCE_LIMIT_EXCEEDED
            )
        if not self._bucket_of(peer).take(1, time.monotonic()):
            limit = self._limits.requests_per_peer_per_s
            raise limit_reached("circuits.requests_per_peer_per_s", limit)

    @contextlib.contextmanager
    def pending(self, peer: PeerId) -> Iterator[None]:
        """Around waiting for requests. Raises RequestRefused before anything is read."""
        if self._pending[peer] >= PENDING_PER_PEER_MAX:
            raise limit_reached("circuits.requests_pending_max", PENDING_PER_PEER_MAX)
        self._pending[peer] += 1
        try:
            yield
        finally:
            self._pending[peer] -= 1
            if not self._pending[peer]:
                del self._pending[peer]

    def refused(self, refused: RequestRefused) -> None:
        """Count and log it."""
        self.refusals.note(refused, time.monotonic())

    def malformed(self, error: RemoteProtocolError) -> RequestRefused:
        """What did not parse, as a refusal that is counted and can be answered."""
        refused = RequestRefused("malformed", error.message, RefusalCode.MALFORMED_MESSAGE)
        self.refused(refused)
        return refused

    def _bucket_of(self, peer: PeerId) -> TokenBucket:
        limits, bucket = self._limits, self._buckets.get(peer)
        if bucket is None:
            if len(self._buckets) >= limits.requests_peers_max:
                self._buckets.popitem(last=False)
            bucket = self._buckets[peer] = TokenBucket(
                limits.requests_per_peer_per_s, limits.requests_per_peer_burst, time.monotonic()
            )
        self._buckets.move_to_end(peer)
        return bucket
