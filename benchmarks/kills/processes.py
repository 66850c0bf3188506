"""What a process of the harness weighs, from inside it. Linux alone."""

import asyncio
import os
from pathlib import Path

from benchmarks.kills.channel import Message

__all__ = ["vitals"]


def vitals() -> Message:
    """Memory that is this process's own (file pages are shared with the zygote), fds, tasks."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return {
        "rss_kib": int(line.split()[1]),
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
    }
