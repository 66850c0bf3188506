"""What a running node of this home tells of its connections: by which paths, and what failed."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.app.running import NotRunning, read_status
from transport.base import PathKind
from transport.diagnosis.finding import Finding, Level

__all__ = ["check_node", "node_findings"]


async def check_node(home: Path) -> list[Finding]:
    """Nothing where none runs: that is no fault."""
    try:
        return node_findings(await read_status(home))
    except NotRunning:
        return []


def node_findings(status: Mapping[str, Any]) -> list[Finding]:
    """From the status page. `paths`, once it has met others, has an object a path, with `kind`,
    `is_current` and, of one that failed, the `reason`."""
    findings = [Finding("node", Level.OK, f"A {status.get('role', 'node')} of this home runs.")]
    listed = status.get("paths")
    paths = [path for path in listed if isinstance(path, dict)] if isinstance(listed, list) else []
    used = Counter(str(path.get("kind")) for path in paths if path.get("is_current"))
    if not used:
        return findings
    shown = ", ".join(f"{count} {kind}" for kind, count in sorted(used.items()))
    if used.keys() - {PathKind.RELAYED}:
        return [*findings, Finding("paths", Level.OK, f"Its connections: {shown}.")]
    reasons = Counter(str(path["reason"]) for path in paths if path.get("reason"))
    text = f"Its connections are all relayed: {shown}."
    if reasons:
        text += f" Most often: {reasons.most_common(1)[0][0]}"
    fix = "See what is said of UDP and NAT; a direct path is faster."
    return [*findings, Finding("paths", Level.WARN, text, fix)]
