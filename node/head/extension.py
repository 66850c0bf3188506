"""Leases that have grown, on their way to every hop of a route, and the hops' word that they have.

One at a time, and of one epoch: what a repair overtakes is asked for again.
"""

import asyncio
from dataclasses import replace

from node.head.hops import RouteHops
from node.head.receipts import Receipts
from node.router.base import RoutePlan
from protocol.frame import Extend, Extended
from protocol.head_session import HeadSession

__all__ = ["Extension"]


class Extension:
    """Of one session. `receipts`: who signs under the leases; None on a route without money."""

    def __init__(self, session: HeadSession, hops: RouteHops, receipts: Receipts | None) -> None:
        self._session = session
        self._hops = hops
        self._receipts = receipts
        self._plan: RoutePlan | None = None
        """With what is under way."""
        self._confirmed: asyncio.Future[bool] | None = None

    async def tell(self, plan: RoutePlan) -> asyncio.Future[bool]:
        """Send every hop its lease of `plan`, the present one with more paid for.

        The future says True when all have confirmed it, False where a repair or the end came first.
        """
        assert plan.funded_rows is not None, "a free route is funded whole"
        assert self._receipts is not None
        self.drop()
        amounts = [lease.amount_nanos_max for lease in plan.leases]
        self._session.send_extend(plan.funded_rows, amounts)
        confirmed = asyncio.get_running_loop().create_future()
        self._confirmed, self._plan = confirmed, plan
        # what is funded is only said of the plan once it is confirmed: a repair asks for as much
        now = self._hops.plan
        self._hops.plan = replace(plan, funded_rows=now.funded_rows, spare_rows=now.spare_rows)
        self._receipts.extend()
        for index, envelope in enumerate(plan.lease_envelopes):
            await self._hops.tell(index, Extend(self._session.session_id, envelope))
        return confirmed

    def take(self, index: int, frame: Extended) -> None:
        """A hop works up to its new limit; when all do, a repair asks for as much."""
        if not self._session.accept_extended(index, frame):
            return
        assert self._plan is not None
        assert self._confirmed is not None
        self._hops.plan = self._plan
        if not self._confirmed.done():
            self._confirmed.set_result(True)

    def drop(self) -> None:
        """Wait for it no longer: a repair or the end has come first."""
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(False)
