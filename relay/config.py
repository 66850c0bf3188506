"""The relay's settings and its home directory: what an operator may choose, and the key file.

Every setting can be given as PIECEWORK_RELAY_<NAME>, and every limit of `relay/resources.py` as
PIECEWORK_RELAY_<GROUP>__<NAME>, as in PIECEWORK_RELAY_CIRCUITS__RESERVATIONS_MAX=1000. With none
the relay runs.
"""

import contextlib
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from protocol.identity import KeyPair
from relay.errors import ConfigInvalid
from relay.resources import (
    CircuitLimits,
    ForwarderLimits,
    ReflectorLimits,
    RendezvousLimits,
    Resources,
)

__all__ = ["KEY_FILE", "STATUS_FILE", "RelayConfig", "load_key", "read_config"]

KEY_FILE = "relay.key"
STATUS_FILE = "status.json"
"""Says where the status page of the running relay is."""
SEED_BYTES = 32

Port = Annotated[int, Field(ge=0, le=65535)]


def _default_home() -> Path:
    return user_data_path("piecework-relay", appauthor=False)


class RelayConfig(BaseSettings):
    """What `relay.app` is built from. Port 0 takes a free one."""

    model_config = SettingsConfigDict(
        env_prefix="PIECEWORK_RELAY_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Field(default_factory=_default_home)
    """Holds the key file; the key is what the relay's addresses are good for."""
    host: str = "0.0.0.0"
    """Where the control plane (TCP), the forwarder and the reflector (UDP) listen."""
    port: Port = 4001
    """Of the control plane, TCP."""
    udp_port: Port = 4001
    """Of the forwarder and the reflector."""
    other_udp_port: Port = 4002
    """The reflector's second one: what an address looks like from there tells NATs apart."""
    announce_host: str = ""
    """What others dial, where that is not an address of this machine (1:1 NAT of a cloud)."""
    status_host: str = "127.0.0.1"
    """Of the status page and the metrics. They name nobody, but are not for the world."""
    status_port: Port = 8480
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """How long circuits may run on after SIGTERM."""

    circuits: CircuitLimits = Field(default_factory=CircuitLimits)
    forwarder: ForwarderLimits = Field(default_factory=ForwarderLimits)
    reflector: ReflectorLimits = Field(default_factory=ReflectorLimits)
    rendezvous: RendezvousLimits = Field(default_factory=RendezvousLimits)

    @field_validator("host", "status_host", "announce_host")
    @classmethod
    def _is_literal(cls, value: str) -> str:
        """A name could point elsewhere tomorrow, and would stand in others' records."""
        if value:
            ipaddress.ip_address(value)
        return value

    @property
    def resources(self) -> Resources:
        """All limits."""
        return Resources(self.circuits, self.forwarder, self.reflector, self.rendezvous)


def read_config(**chosen: Path | str | int | float | None) -> RelayConfig:
    """Settings from the environment, with what is `chosen` (not None) before it.

    Raises ConfigInvalid that names the setting which cannot be.
    """
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    try:
        return RelayConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigInvalid(
            f"The setting '{name}' cannot be: {first['msg']}.",
            hint="See PIECEWORK_RELAY_* in the environment.",
        ) from None


def load_key(home: Path) -> KeyPair:
    """The relay's key; made on first start, readable by its owner alone.

    Raises ConfigInvalid if the file is not such a key or others may read it.
    """
    path = home / KEY_FILE
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            _write_new(path, KeyPair.generate().seed)
        seed = path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(
            f"The key {path} cannot be used: {error.strerror}.", hint="Choose another --home."
        ) from None
    if len(seed) != SEED_BYTES:
        raise ConfigInvalid(
            f"{path} is not a relay's key.", hint="Restore it from your backup, or remove it."
        )
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigInvalid(f"Others may read {path}.", hint=f"Run: chmod 600 {path}")
    return KeyPair(seed)


def _write_new(path: Path, seed: bytes) -> None:
    """Write 0600 from the first byte, and only if nothing is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(seed)
        file.flush()
        os.fsync(file.fileno())
