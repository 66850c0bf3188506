"""Keeps this machine on the cluster's plan: says which it follows, and which span that gives it."""

import asyncio
from collections.abc import Callable
from typing import Final

from node.cluster.agreement import Agreement
from node.cluster.gossip import Gossip
from protocol.route import Span

__all__ = ["Follower"]

LOOK_S: Final = 0.25
"""How often the clock is looked at while members are not settled."""
REST_S: Final = 30.0
"""While nothing changes nothing is computed either; this only bounds a wait."""


class Follower:
    """Runs until cancelled. `on_span` is called with every change of this machine's span."""

    def __init__(
        self, gossip: Gossip, agreement: Agreement, on_span: Callable[[Span | None], None]
    ) -> None:
        self._gossip = gossip
        self._agreement = agreement
        self._on_span = on_span

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            membership = self._gossip.membership
            expected = [record.peer_id for record in membership.introduced()]
            plan = self._agreement.observe(membership.records(), expected, now)
            own = membership.own
            if plan is not None and plan != own.plan:
                before = own.plan.span_of(own.peer_id) if own.plan else None
                self._gossip.update(plan=plan)
                if (span := plan.span_of(own.peer_id)) != before:
                    self._on_span(span)
            is_settled = self._agreement.is_settled(loop.time())
            await self._gossip.wait_change(REST_S if is_settled else LOOK_S)
