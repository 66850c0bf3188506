"""Running checks side by side: each with its own time limit, none able to spoil the others."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from protocol.errors import PieceworkError
from transport.diagnosis.finding import Finding, Level

__all__ = ["Check", "run_checks"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. What it raises, and its silence, become findings too."""

    name: str
    """Also of the finding when the check itself does not come to one."""
    work: Callable[[], Awaitable[list[Finding]]]
    timeout_s: float


async def run_checks(
    checks: Sequence[Check], on_done: Callable[[Check, list[Finding]], None]
) -> list[Finding]:
    """All at once; `on_done` as each ends, the findings in the order of the checks."""

    async def run(check: Check) -> list[Finding]:
        findings = await _findings(check)
        on_done(check, findings)
        return findings

    found = await asyncio.gather(*map(run, checks))
    return [finding for findings in found for finding in findings]


async def _findings(check: Check) -> list[Finding]:
    try:
        async with asyncio.timeout(check.timeout_s):
            return await check.work()
    except TimeoutError:
        text = f"This was not found out within {check.timeout_s:g} s."
        return [Finding(check.name, Level.WARN, text, "Try again when the machine is less busy.")]
    except PieceworkError as error:
        fix = error.hint or "See the message."
        return [Finding(check.name, Level.WARN, f"This was not found out: {error.message}", fix)]
    except Exception as error:  # the edge: one broken check must not hide what the others found
        log.exception("the check %s failed", check.name)
        text = f"The check itself failed: {error!r}."
        return [Finding(check.name, Level.WARN, text, "Please report this, with the log above.")]
