"""One check can neither hold up nor hide the others."""

import asyncio

from node.app.checkup import Check, run_checks
from protocol.errors import PieceworkError
from transport.diagnosis.finding import Finding, Level

FINE = Finding("fine", Level.OK, "All is well.")


async def fine() -> list[Finding]:
    return [FINE]


async def hang() -> list[Finding]:
    await asyncio.sleep(60)
    return []


async def refuse() -> list[Finding]:
    raise PieceworkError("nobody is there", hint="call again")


async def break_() -> list[Finding]:
    raise ZeroDivisionError


async def test_findings_come_in_the_order_of_the_checks_whatever_happens(caplog):
    done = []
    findings = await run_checks(
        [Check("slow", hang, 0.05), Check("refused", refuse, 1), Check("broken", break_, 1),
         Check("fine", fine, 1)],
        lambda check, _: done.append(check.name),
    )  # fmt: skip
    assert [finding.name for finding in findings] == ["slow", "refused", "broken", "fine"]
    assert [finding.level for finding in findings] == [Level.WARN] * 3 + [Level.OK]
    assert done[-1] == "slow"
    assert findings[1].fix == "call again"
    assert "ZeroDivisionError" in findings[2].text
    assert "the check broken failed" in caplog.text
