"""Want of memory in an engine's process: named where it is an error, borne where it kills."""

from pathlib import Path

from node.engine.errors import OutOfMemory

__all__ = ["MEMORY_HINT", "as_out_of_memory", "offer_to_be_killed_first"]

MEMORY_HINT = "Serve fewer layers or fewer KV tokens if it happens again."

_SCORE_PATH = Path("/proc/self/oom_score_adj")
_SCORE_RAISE = 500
"""As if half of the machine's memory more were ours: above a browser's own tabs (300)."""

_SCORE_MAX = 1000

_TYPE_NAMES = frozenset({"OutOfMemoryError"})
"""What torch calls it on a GPU; by name, as only the backends may import torch."""

_SENTENCES = ("can't allocate memory", "Unable to allocate", "std::bad_alloc")
"""What a RuntimeError says in torch on a CPU, in MLX, and of a bare C++ library."""


def as_out_of_memory(error: Exception) -> OutOfMemory | None:
    """The error by its name if it means that memory ran out, or None."""
    is_named = isinstance(error, MemoryError) or type(error).__name__ in _TYPE_NAMES
    if is_named or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in _SENTENCES)
    ):
        return OutOfMemory("The engine ran out of memory.", hint=MEMORY_HINT)
    return None


def offer_to_be_killed_first(path: Path = _SCORE_PATH) -> None:
    """Raise this process's oom_score_adj, where there is one (Linux).

    When memory runs out, the kernel kills the process of the highest score. An engine is loaded
    again within seconds; the node holds the sessions, and the desktop is the owner's.
    """
    try:
        score = int(path.read_text())
        path.write_text(str(min(score + _SCORE_RAISE, _SCORE_MAX)))
    except (OSError, ValueError):
        return  # another system, or a container that forbids it: the kernel then chooses freely
