"""Named points at which a process can be made to die, to show that nothing is lost there.

With PIECEWORK_FAILPOINT=name, or name:3 for the third time it is reached, the process kills itself
with SIGKILL at that point: no handler runs, nothing is flushed. Without it a point costs one
comparison. Names are `room.moment`, and `docs/ledger/crashes.md` lists them.
"""

import os
import signal
import threading

__all__ = ["reach"]

_NAME, _, _TIMES = os.environ.get("PIECEWORK_FAILPOINT", "").partition(":")
_lock = threading.Lock()
_left = int(_TIMES) if _TIMES.isdecimal() else 1


def reach(name: str) -> None:
    """Die here if this is the point that was named; else nothing."""
    if name != _NAME:
        return
    global _left  # noqa: PLW0603 - one counter a process, like the process's death
    with _lock:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
