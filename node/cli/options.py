"""Options as text become values; each refusal names the option's choices."""

from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from node.config import default_home
from node.errors import ConfigInvalid
from node.hardware import default_threads

__all__ = ["choose", "home_path", "thread_count"]

E = TypeVar("E", bound=StrEnum)


def choose(kind: type[E], text: str, option: str) -> E:
    """The member of `kind` spelled `text`; raises ConfigInvalid."""
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(kind)
        raise ConfigInvalid(f"{option} cannot be '{text}'.", hint=f"Choose {known}.") from None


def home_path(home: Path | None) -> Path:
    return home if home is not None else default_home()


def thread_count(threads: int) -> int:
    return threads or default_threads()
