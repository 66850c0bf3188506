"""The named moments at which a gateway dies: seen from outside, for its code knows of none.

A node may not import the ledger, so no fail-point stands in it. But whatever moves its buyers'
money goes through a request to the marketplace or a piece of an answer, and both pass the
laboratory's own hands (`passage.py`, `asker.py`), which kill the gateway right there.
"""

import contextlib
import json
import os
import signal
import threading

import psutil

from benchmarks.ledger_kills.place import Place
from benchmarks.ledger_kills.processes import Program

__all__ = ["GATEWAY_POINTS", "Gateway", "Moments"]

ASKED_FOR = ("quote", "lease", "extension", "close")
"""What a gateway asks a marketplace for on the way of an answer."""
GATEWAY_POINTS = frozenset(
    {f"gateway.{what}.{when}" for what in ASKED_FOR for when in ("before", "after")}
    | {"gateway.opened", "gateway.first_token", "gateway.token", "gateway.answered"}
)
"""`before`: the request has left the gateway and not reached the marketplace. `after`: it was
answered, and the gateway does not know. `opened`: the hops are leased and hold the session.
`token`: a later piece of the answer. `answered`: the buyer has all of it, and the last receipts
are being signed."""


class Gateway(Program):
    """A real gateway; each life of it is made known to who may have to kill it."""

    number = 0
    place: Place

    @property
    def has_begun(self) -> bool:
        """Whether this life has opened a session: before that there is little to lose by it."""
        path = self.place.gateway_begun(self.number)
        return path.exists() and path.read_text() == str(self.pid)

    def start(self, failpoint: str = "") -> None:
        super().start(failpoint)
        born = psutil.Process(self.pid).create_time()
        life = {"pid": self.pid, "born": born, "failpoint": failpoint}
        path = self.place.gateway_life(self.number)
        made = path.with_suffix(".new")
        made.write_text(json.dumps(life))
        os.replace(made, path)


class Moments:
    """Counts how often a gateway's present life came by its point; safe to use from threads."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._passed: dict[tuple[int, float], int] = {}

    def begun(self, gateway: int) -> None:
        """A session of this gateway's is open."""
        with contextlib.suppress(FileNotFoundError):
            life = json.loads(self._place.gateway_life(gateway).read_text())
            self._place.gateway_begun(gateway).write_text(str(life["pid"]))

    def reach(self, gateway: int, name: str) -> bool:
        """Kill this gateway, with the processes it has started, if this is its point; whether."""
        try:
            life = json.loads(self._place.gateway_life(gateway).read_text())
        except FileNotFoundError:
            return False
        point, _, times = life["failpoint"].partition(":")
        if point != name:
            return False
        key = (life["pid"], life["born"])
        with self._lock:
            self._passed[key] = self._passed.get(key, 0) + 1
            if self._passed[key] < int(times or 1):
                return False
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            # nobody else who has come to its number meanwhile
            if psutil.Process(life["pid"]).create_time() == life["born"]:
                os.killpg(life["pid"], signal.SIGKILL)
                return True
        return False
