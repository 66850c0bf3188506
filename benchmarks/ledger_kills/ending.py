"""The end of a campaign for the real pool: gateways leave, receipts come in, holds are resolved.

A session whose gateway was killed ends by itself when its time for receipts is over, ten minutes
after its last token (`marketplace/leases/signing.py`). Long campaigns see that happen under fire;
for what is left at the end the laboratory does not wait: it runs the settlement that the worker
would run, with that later time as its clock.
"""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from benchmarks.ledger_kills.hops import carried_by, status_of
from benchmarks.ledger_kills.pool import Pool
from benchmarks.ledger_kills.processes import Program
from ledger.settle_window import SETTLED_AT_ONCE_MAX, settle_ready
from marketplace.db import Database

__all__ = ["PoolEnd"]

_READY = """
SELECT COUNT(*) FROM ledger_hold h WHERE h.buyer = :buyer AND h.charged_nanos IS NULL AND h.closed
    AND NOT EXISTS (SELECT 1 FROM ledger_lane l WHERE l.hold_id = h.hold_id AND NOT l.final)
"""
_OPEN = "SELECT MAX(settle_by_s) FROM ledger_hold WHERE buyer = :buyer AND charged_nanos IS NULL"


@dataclass(slots=True)
class PoolEnd:
    """One step further each time it is asked; from when no question is asked any more."""

    pool: Pool
    database_url: str
    overdue: int = 0
    """Holds that were resolved because their time was over, by a clock that was put forward."""
    refused: dict[str, int] = field(default_factory=dict)
    """Receipts of the providers that a marketplace refused, by its reason."""
    _asked: bool = False
    _is_over: bool = False

    def is_over(self) -> bool:
        """Whether every hold is resolved. Raises RuntimeError where a process does not play along:
        a gateway that is told to leave has to end well."""
        if self._is_over:
            return True
        if not self.pool.place.asker_done.exists():
            return False
        if not self._asked:
            for gateway in self.pool.gateways:
                gateway.terminate()
            self._asked = True
        if not all(self._has_left(gateway) for gateway in self.pool.gateways):
            return False
        try:
            said = [status_of(self.pool.place.node_home(node.name)) for node in self.pool.nodes]
        except RuntimeError:
            return False  # a page that is slow; whether its process lives is looked at elsewhere
        if not all(map(self._is_told, said)) or self._count_ready():
            return False
        for status in said:
            for reason, count in status["receipts_refused"].items():
                self.refused[reason] = self.refused.get(reason, 0) + count
        self._settle_overdue()
        self._is_over = True
        return True

    def what_is_left(self) -> str:
        """In words, for whoever has waited too long."""
        if not self.pool.place.asker_done.exists():
            return "the gateways' last answers"
        left = {gateway.name: gateway.code for gateway in self.pool.gateways}
        return f"the pool's gateways left with {left}, {self._count_ready()} holds to settle"

    def _has_left(self, gateway: Program) -> bool:
        if gateway.code not in (None, 0):
            raise RuntimeError(f"{gateway.name} did not leave as asked:\n{gateway.tail()}")
        return gateway.code == 0

    def _is_told(self, status: dict[str, Any]) -> bool:
        """Whether a provider keeps no receipt and no session, and its last ones were seen."""
        seen = carried_by(self.pool.place.hops_journal)
        return not (status["receipts_pending"] or status["sessions"]) and all(
            (one["session_id"], one["hop_index"]) in seen for one in status["recent"]
        )

    def _count_ready(self) -> int:
        database = Database(self.database_url)
        try:
            with database.reading() as session:
                given = {"buyer": self.pool.options.account_id}
                return int(session.execute(text(_READY), given).scalar_one())
        finally:
            database.close()

    def _settle_overdue(self) -> None:
        buyer, database = self.pool.options.account_id, Database(self.database_url)
        try:
            while True:
                with database.transaction() as session:
                    last_s = session.execute(text(_OPEN), {"buyer": buyer}).scalar_one()
                    if last_s is None:
                        return
                    settled = settle_ready(
                        session, now_s=last_s + 1, limit=SETTLED_AT_ONCE_MAX, buyer=buyer
                    )
                self.overdue += len(settled)
        finally:
            database.close()
