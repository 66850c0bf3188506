"""Options as text become values; each refusal names the option's choices."""

from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from node.config import EngineOptions, default_home
from node.engine.base import ComputeDtype
from node.errors import ConfigInvalid
from node.hardware import default_threads

__all__ = ["EngineTexts", "choose", "engine_options", "home_path"]

E = TypeVar("E", bound=StrEnum)

EngineTexts = tuple[str, str, str, int]
"""--backend, --device, --compute, --threads."""


def choose(kind: type[E], text: str, option: str) -> E:
    """The member of `kind` spelled `text`; raises ConfigInvalid."""
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(kind)
        raise ConfigInvalid(f"{option} cannot be '{text}'.", hint=f"Choose {known}.") from None


def home_path(home: Path | None) -> Path:
    return home if home is not None else default_home()


def engine_options(texts: EngineTexts) -> EngineOptions:
    """Raises ConfigInvalid. Backend and device are checked where they are looked for."""
    backend, device, compute, threads = texts
    compute_dtype = choose(ComputeDtype, compute, "--compute")
    return EngineOptions(backend, device, compute_dtype, threads or default_threads())
