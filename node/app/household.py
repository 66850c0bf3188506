"""A running provider keeps to its household's limits: looked at every few seconds, told when they
change, and enforced where sessions are admitted. Answers under way are never cut off."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from node.config import Home
from node.errors import ConfigInvalid
from node.household.activity import OwnerActivity
from node.household.limits import Limits, as_object, load_limits
from node.household.policy import Decision, Situation, decide
from node.household.usage import MonthlyUsage
from node.serve.admission import Admission
from protocol.errors import ErrorCode, SessionError
from protocol.frame import Open
from protocol.identity import PeerId
from protocol.lease import Lease
from transport.congestion.share import RATE_MIN_BYTES_S, UploadShare

__all__ = ["Household", "HouseholdAdmission"]

LOOK_S = 5.0
"""Between two looks: an owner who pauses waits no longer."""
SAVE_S = 60.0
"""Between two writes of the traffic count: what a crash may lose."""

logger = logging.getLogger(__name__)


class Household:
    """The limits of one home, applied to one provider. Call `look` once before serving."""

    def __init__(
        self,
        home: Home,
        share: UploadShare,
        traffic_bytes: Callable[[], int],
        *,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._home = home.path
        self._share = share
        self._traffic_bytes = traffic_bytes
        self._now = now or (lambda: datetime.now(UTC).astimezone())
        self._usage = MonthlyUsage(home.path)
        self._activity = OwnerActivity()
        self._saved_at = 0.0
        self.limits = Limits()
        self.decision = Decision(takes_work=True)

    def look(self) -> Decision:
        """Read the limits and the machine again. A damaged file leaves the limits as they were."""
        try:
            self.limits = load_limits(self._home)
        except ConfigInvalid as error:
            logger.warning("%s", error)
        rate = self.limits.upload_bytes_s
        self._share.set_rate(max(rate, RATE_MIN_BYTES_S) if rate else None)
        now, tick = self._now(), time.monotonic()
        used = self._usage.note(self._traffic_bytes(), now)
        quiet_s = self._activity.quiet_s(tick) if self.limits.pause_while_busy else None
        self.decision = decide(self.limits, Situation(now, used, quiet_s))
        if tick - self._saved_at >= SAVE_S:
            self._usage.save()
            self._saved_at = tick
        return self.decision

    async def run(
        self, on_change: Callable[[Decision], Awaitable[None]], tell: Callable[[str], None]
    ) -> None:
        """Look for ever; `on_change` when work begins or stops being taken."""
        while True:
            await asyncio.sleep(LOOK_S)
            before, decision = self.decision, self.look()
            if decision.reasons != before.reasons:
                reasons = "; ".join(decision.reasons)
                tell(f"no new work: {reasons}" if reasons else "taking work again")
            if decision.takes_work != before.takes_work:
                await on_change(decision)

    def close(self) -> None:
        """Keep the count of traffic."""
        self._usage.note(self._traffic_bytes(), self._now())
        self._usage.save()

    def view(self) -> dict[str, Any]:
        """For the status page."""
        return {
            "takes_work": self.decision.takes_work,
            "reasons": list(self.decision.reasons),
            "until": self.decision.until.isoformat() if self.decision.until else None,
            "month_bytes": self._usage.month_bytes(self._now()),
            "limits": as_object(self.limits),
        }


class HouseholdAdmission:
    """New sessions only while the household takes work; those that are here may be repaired."""

    def __init__(self, inner: Admission, household: Household) -> None:
        self._inner = inner
        self._household = household

    def admit(self, request: Open, head: PeerId) -> Lease | None:
        if not self._household.decision.takes_work:
            raise SessionError(
                "This node takes no new work now.",
                code=ErrorCode.NO_CAPACITY,
                hint="Ask for another route.",
            )
        return self._inner.admit(request, head)

    def readmit(self, request: Open, head: PeerId, lease: Lease | None) -> Lease | None:
        return self._inner.readmit(request, head, lease)
