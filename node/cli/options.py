"""Options as text become values; each refusal names the option's choices."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from node.config import EngineOptions, NetworkOptions, default_home
from node.engine.base import ComputeDtype
from node.errors import ConfigInvalid
from node.hardware import default_threads
from protocol.errors import RemoteProtocolError
from transport.address import TcpAddress

__all__ = ["EngineTexts", "choose", "engine_options", "home_path", "network_options"]

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


def network_options(
    listen: tuple[str, int], relays: Sequence[str], *, maps_port: bool = False
) -> NetworkOptions:
    """Raises ConfigInvalid for a relay that is no multiaddr of one."""
    for text in relays:
        try:
            TcpAddress.from_text(text)
        except RemoteProtocolError as error:
            raise ConfigInvalid(
                f"--relay cannot be '{text[:128]}'.", hint="Give /ip4/HOST/tcp/PORT/p2p/PEERID."
            ) from error
    is_loopback = listen[0] in ("127.0.0.1", "::1")
    return NetworkOptions(*listen, tuple(relays), maps_port=maps_port and not is_loopback)
