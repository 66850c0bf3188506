"""Which engines there are, and which of them this machine can run. Imports none of them."""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import cast

from node.engine.base import Engine, ShardSpec
from node.engine.errors import BackendMissing

__all__ = ["AUTO", "available_backends", "choose_backend", "load_engine"]

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class _Backend:
    module: str
    """Has `load(spec) -> Engine`."""
    packages: tuple[str, ...]
    """Top-level packages that must be found."""
    extra: str
    """Of our own distribution; empty where nothing needs installing."""


_BACKENDS = {
    "torch": _Backend("node.engine.torch_backend", ("torch", "transformers"), "torch"),
    "mlx": _Backend("node.engine.mlx_backend", ("mlx", "mlx_lm"), "mlx"),
    "fake": _Backend("node.engine.fake", (), ""),
}


def available_backends() -> tuple[str, ...]:
    """The backends whose packages are installed; looking does not import them."""
    return tuple(name for name, backend in _BACKENDS.items() if not _missing(backend))


def choose_backend(name: str = AUTO) -> str:
    """The backend of that name, or the fastest real one here for `auto` (never the fake).

    Raises BackendMissing, whose hint says what to install.
    """
    if name == AUTO:
        order = ("mlx", "torch") if sys.platform == "darwin" else ("torch", "mlx")
        found = [candidate for candidate in order if not _missing(_BACKENDS[candidate])]
        if not found:
            raise BackendMissing("No engine is installed.", hint=_install_hint(order[0]))
        return found[0]
    backend = _BACKENDS.get(name)
    if backend is None:
        known = ", ".join((AUTO, *_BACKENDS))
        raise BackendMissing(f"There is no backend '{name}'.", hint=f"Choose one of {known}.")
    if missing := _missing(backend):
        raise BackendMissing(
            f"The {name} backend needs {', '.join(missing)}.", hint=_install_hint(backend.extra)
        )
    return name


def load_engine(spec: ShardSpec, backend: str) -> Engine:
    """Import the backend and load the shard. Only the worker's process calls this."""
    module = importlib.import_module(_BACKENDS[choose_backend(backend)].module)
    return cast("Engine", module.load(spec))


def _missing(backend: _Backend) -> list[str]:
    return [name for name in backend.packages if importlib.util.find_spec(name) is None]


def _install_hint(extra: str) -> str:
    return f"Install it with: pip install 'piecework[{extra}]'"
