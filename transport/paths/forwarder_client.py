"""Our side of a circuit at a relay's UDP forwarder: bound, kept bound, and bound anew.

BIND every 250 ms until BOUND; then every 15 s, which also holds the NAT's mapping towards the
relay; at once when the network changed. A relay that stays silent has refused, or UDP is blocked.

The first BIND, and the first from another address, is answered with a cookie and binds nothing; the
next bears it, and goes at once.
"""

import time
from collections.abc import Callable
from enum import Enum
from time import monotonic
from typing import Final

from protocol.datagram import COOKIE_BYTES, Bind, Bound, is_genuine
from transport.paths.path_address import CircuitPath
from transport.paths.probing import Probing
from transport.timer import LazyTimer

__all__ = ["COOKIES_TAKEN_MAX", "BindingState", "CircuitBinding"]

RETRY_S: Final = 0.25
COOKIES_TAKEN_MAX: Final = 2
"""Answered at once, from one timed BIND to the next: one for our address, and one more should the
NAT have changed it in between. A relay that goes on so makes us send no more than this."""
REFRESH_S: Final = 15.0
"""Half of the 30 s after which poor NATs forget an idle mapping."""

PARTNER_POLL_S: Final = 1.0
"""Between BINDs while the other side is not bound: BOUND says when it is."""

SILENCE_S: Final = 5.0
"""Twenty BINDs unanswered."""

SLOW_RETRY_S: Final = 5.0
"""After that: the relay may have restarted, or UDP come back."""


class BindingState(Enum):
    BINDING = "binding"
    BOUND = "bound"
    SILENT = "silent"
    """Refused by silence: no such circuit, a wrong secret, or no UDP to the relay. Or by cookies
    without end."""


class CircuitBinding:
    """One side (0 or 1) of one circuit; owned by whoever signalled it."""

    def __init__(
        self,
        probing: Probing,
        path: CircuitPath,
        side: int,
        secret: bytes,
        *,
        on_change: Callable[["CircuitBinding"], None] = lambda binding: None,
        silence_s: float = SILENCE_S,
    ) -> None:
        """Begins at once. `on_change` when `state` or `is_other_bound` did.

        Raises LocalProtocolError when the host has too many circuits.
        """
        self.path = path
        self.state = BindingState.BINDING
        self.is_other_bound = False
        self.refused_s: float | None = None
        """How long the relay has not bound us, once it counts as refusing."""
        self._probing = probing
        self._side = side
        self._secret = secret
        self._on_change = on_change
        self._silence_s = silence_s
        # Above every counter that an earlier program used for this circuit.
        self._counter = time.time_ns()
        self._counter_min = self._counter + 1
        self._cookie = bytes(COOKIE_BYTES)
        self._cookies_taken = 0
        self._asked_since: float | None = None
        self._refresh_at = 0.0
        probing.add_circuit(path, self._on_bound)
        self._timer = LazyTimer(self._on_timer)
        self._bind()

    def rebind(self) -> None:
        """The network changed: our address at the relay is another, so say so at once."""
        self._asked_since = None
        self._counter_min = self._counter + 1
        self._bind()

    def close(self) -> None:
        """Forget the circuit: nothing that comes by it is believed any more."""
        self._timer.cancel()
        self._probing.remove_circuit(self.path)

    def _bind(self) -> None:
        now = monotonic()
        if self._asked_since is None:
            self._asked_since = now
        silent_s = now - self._asked_since
        is_silent = silent_s >= self._silence_s
        if is_silent:
            self.refused_s = silent_s
            self._become(BindingState.SILENT, is_other_bound=False)
        self._cookies_taken = 0
        self._send()
        self._refresh_at = now + (SLOW_RETRY_S if is_silent else RETRY_S)
        self._timer.set(self._refresh_at)

    def _send(self) -> None:
        self._counter += 1
        bind = Bind(self.path.circuit, self._side, self._counter, self._cookie)
        self._probing.endpoint.send([bind.encode(self._secret)], self.path.relay)

    def _on_bound(self, data: bytes, bound: Bound) -> None:
        if bound.side != self._side or not is_genuine(data, self._secret):
            return
        # An answer to a BIND from before the network changed is out of date.
        if not self._counter_min <= bound.counter <= self._counter:
            return
        if not bound.is_bound:
            self._take_cookie(bound.cookie)
            return
        self._asked_since = self.refused_s = None
        self._refresh_at = monotonic() + (REFRESH_S if bound.is_other_bound else PARTNER_POLL_S)
        self._become(BindingState.BOUND, is_other_bound=bound.is_other_bound)
        self._timer.set(self._refresh_at)

    def _take_cookie(self, cookie: bytes) -> None:
        # One that we have is the answer to an earlier BIND: a later one, under way, bears it.
        if cookie != self._cookie and self._cookies_taken < COOKIES_TAKEN_MAX:
            self._cookie = cookie
            self._cookies_taken += 1
            self._send()

    def _on_timer(self) -> None:
        if monotonic() >= self._refresh_at:
            self._bind()
        else:
            self._timer.set(self._refresh_at)

    def _become(self, state: BindingState, *, is_other_bound: bool) -> None:
        if (state, is_other_bound) != (self.state, self.is_other_bound):
            self.state, self.is_other_bound = state, is_other_bound
            self._on_change(self)
