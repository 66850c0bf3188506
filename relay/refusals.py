"""Why requests were refused: counted by reason for the metrics, and told to the log now and then.

A stranger decides how often this is called, so the log gets at most a line a reason in ten
seconds, and the reasons are our own words only. No PeerId and no address is written.
"""

import logging
from collections import Counter
from typing import Final

from relay.errors import RequestRefused

__all__ = ["Refusals"]

log = logging.getLogger(__name__)

LOG_INTERVAL_S: Final = 10.0
MESSAGE_CHARACTERS_MAX: Final = 200
"""A message may quote what the peer sent."""


class Refusals:
    """One per program; every service notes here what it refused."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._logged: dict[str, tuple[float, int]] = {}
        """reason -> when it was last logged, and its count then."""

    def note(self, refused: RequestRefused, now: float) -> None:
        """Count it, and log it if this reason was not logged for LOG_INTERVAL_S."""
        reason = refused.reason
        self.counts[reason] += 1
        logged_at, count = self._logged.get(reason, (-LOG_INTERVAL_S, 0))
        if now - logged_at < LOG_INTERVAL_S:
            return
        self._logged[reason] = (now, self.counts[reason])
        more = self.counts[reason] - count - 1
        log.warning(
            "refused: %s: %s%s",
            reason,
            refused.message[:MESSAGE_CHARACTERS_MAX],
            f" And {more} more since this was last said." if more > 0 else "",
        )
