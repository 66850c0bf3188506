"""A node's home directory and settings: its key, the marketplaces it trusts, where models lie."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from node.engine.base import ComputeDtype
from node.errors import ConfigInvalid
from node.router.base import INSTALMENT_TOKENS
from protocol.identity import KeyPair, PeerId
from protocol.money import Rates
from protocol.route import Span
from protocol.tensor import WireDtype

__all__ = [
    "EngineOptions",
    "GatewayConfig",
    "Home",
    "NetworkOptions",
    "ProviderConfig",
    "UpConfig",
    "default_home",
    "parse_bytes",
]

KEY_BYTES = 32
PAIRING_TOKEN_BYTES = 24
"""Of randomness; a bearer token is not guessed at 192 bits."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def default_home() -> Path:
    return user_data_path("piecework", appauthor=False)


def parse_bytes(text: str) -> int:
    """`4G`, `512M`, `1.5G` or plain bytes; raises ConfigInvalid."""
    number, unit = text.strip().upper().removesuffix("B").removesuffix("I"), ""
    if number and number[-1] in _UNITS:
        number, unit = number[:-1], number[-1]
    try:
        size = round(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise ConfigInvalid(f"'{text}' is not an amount of memory.", hint="Write 4G or 512M.")
    return size


class Home:
    """The directory a node keeps its own things in; made on first use, readable by its owner."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load_or_create_key(self) -> KeyPair:
        """The node's identity. Raises ConfigInvalid when others could read it or it is damaged."""
        path = self.path / "node.key"
        key = KeyPair.generate()
        return key if _create(path, key.seed) else _read_key(path)

    def load_or_create_pairing_token(self) -> str:
        """What other machines' clients show to this node's API. Raises ConfigInvalid."""
        path = self.path / "pairing.token"
        token = secrets.token_urlsafe(PAIRING_TOKEN_BYTES)
        if _create(path, token.encode()):
            return token
        _require_private(path)
        stored = path.read_text().strip()
        if not stored.isascii() or not stored.isprintable() or len(stored) < PAIRING_TOKEN_BYTES:
            raise ConfigInvalid(
                f"The pairing token in {path} is damaged.", hint="Remove it for a new one."
            )
        return stored

    def pin_market(self, url: str, peer_id: PeerId) -> None:
        """Trust a marketplace's key on first use, and refuse another key at the same address."""
        path = self.path / "markets.json"
        pins = json.loads(path.read_text()) if path.exists() else {}
        pinned = pins.setdefault(url, str(peer_id))
        if pinned != str(peer_id):
            raise ConfigInvalid(
                f"The marketplace at {url} shows another key ({peer_id}) than before ({pinned}).",
                hint=f"If its operator confirms the new key, remove the entry from {path}.",
            )
        path.write_text(json.dumps(pins, indent=2))

    @property
    def receipts_path(self) -> Path:
        return self.path / "receipts.log"

    @property
    def answers_path(self) -> Path:
        """What the marketplace has signed of our receipts."""
        return self.path / "answers.log"

    @property
    def manifests_path(self) -> Path:
        """A cache only, so it is shared by all homes of a user."""
        return user_cache_path("piecework", appauthor=False) / "manifests"

    @property
    def models_path(self) -> Path:
        return self.path / "models"

    @property
    def status_path(self) -> Path:
        """Where a running node says how it can be asked; absent while none runs."""
        return self.path / "status.json"


def _create(path: Path, content: bytes) -> bool:
    """Write a secret that was not there yet; whether that is so."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return True


def _require_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise ConfigInvalid(
            f"The key file {path} can be read by others.", hint=f"Run: chmod 600 {path}"
        )


def _read_key(path: Path) -> KeyPair:
    _require_private(path)
    seed = path.read_bytes()
    if len(seed) != KEY_BYTES:
        raise ConfigInvalid(f"The key file {path} is damaged.", hint="Restore it from a copy.")
    return KeyPair(seed)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a program's engine computes, as its command was told."""

    backend: str
    device: str
    """As ShardSpec.device."""
    compute_dtype: ComputeDtype
    threads: int


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How a program meets other nodes, as its command was told."""

    listen_host: str
    listen_port: int
    relays: tuple[str, ...] = ()
    """Multiaddrs; none: those that the marketplace names."""
    maps_port: bool = False
    """Whether the home router is asked to open the data socket's port."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """What `piecework join` was told. `span` None: the marketplace chooses."""

    home: Path
    market_url: str
    model: str
    memory_bytes: int
    span: Span | None
    engine: EngineOptions
    rates: Rates
    network: NetworkOptions
    kv_tokens: int
    share_weights: bool = False
    """Whether other nodes may fetch what this one has verified."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What `piecework gateway` was told."""

    home: Path
    market_url: str
    models: tuple[str, ...]
    api_host: str
    api_port: int
    network: NetworkOptions
    engine: EngineOptions
    wire_dtype: WireDtype
    draft: str = ""
    """A small model that drafts; "off"; or empty, for prompt lookup alone."""
    instalment_tokens: int = INSTALMENT_TOKENS
    """What of a long answer is held from the buyer's balance at once."""


@dataclass(frozen=True, slots=True)
class UpConfig:
    """What `piecework up` was told."""

    home: Path
    model: str
    cluster_name: str
    cluster_key: str
    """Empty: whoever knows the name is admitted."""
    machine_name: str
    memory_bytes: int
    engine: EngineOptions
    wire_dtype: WireDtype
    kv_tokens: int
    listen_host: str
    listen_port: int
    peers: tuple[str, ...]
    """HOST:PORT of machines that discovery does not find."""
    api_host: str
    api_port: int
    offline: bool
    """Not even a model is asked from the hub."""
    spread: bool
    draft: str = ""
    """As GatewayConfig.draft."""
    discovers: bool = True
    """Whether neighbours are looked for by multicast DNS; else only `peers` are dialled."""
