"""The marketplace's settings and its home directory: what an operator may choose, and the key file.

Every setting can be given as PIECEWORK_MARKET_<NAME>. With none the marketplace runs on SQLite and
the built-in test processor.
"""

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from marketplace.errors import MarketError
from protocol.identity import KeyPair
from protocol.limits import NAME_BYTES_MAX
from protocol.money import BASIS_POINTS

__all__ = ["DATABASE_FILE", "KEY_FILE", "MarketConfig", "load_key", "read_config"]

KEY_FILE = "marketplace.key"
DATABASE_FILE = "marketplace.sqlite"
SEED_BYTES = 32
RELAYS_MAX = 8
"""Of one pool, until relays are found by name: a node tries them all."""


def _default_home() -> Path:
    return user_data_path("piecework-market", appauthor=False)


class MarketConfig(BaseSettings):
    """What `create_app` is built from."""

    model_config = SettingsConfigDict(env_prefix="PIECEWORK_MARKET_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=_default_home)
    """Holds the key file and, by default, the database."""
    database_url: str = ""
    """An SQLAlchemy URL; empty: SQLite in `home`."""
    network: Annotated[str, Field(min_length=1, max_length=64)] = "local"
    """Names the pool; stands in the log's origin, so two pools' checkpoints cannot be confused."""
    fee_basis_points: Annotated[int, Field(ge=0, le=BASIS_POINTS)] = 500
    """On top of what providers earn, in hundredths of a percent."""
    window_tokens: Annotated[int, Field(gt=0, le=4096)] = 64
    """A receipt is due this often."""
    credit_windows: Annotated[int, Field(gt=0, le=64)] = 8
    """Windows a hop may work ahead of the last receipt."""
    settlement_window_s: Annotated[int, Field(gt=0, le=3600)] = 5
    """How often closed sessions are settled and a checkpoint is signed."""
    balances_every_s: Annotated[int, Field(ge=60, le=86_400)] = 3600
    """How often the log is told what is owed in all, as a tree that proves it to each owner."""
    relays: Annotated[tuple[str, ...], NoDecode, Field(max_length=RELAYS_MAX)] = ()
    """The pool's relays as multiaddrs (in the environment between spaces); nodes are told them."""

    check_on_start: bool = True
    """Check every sum of the books before the first request: seconds for a million receipts."""
    stripe_api_key: SecretStr = SecretStr("")
    """With it Stripe moves the money; without it the built-in test processor pretends to."""
    stripe_webhook_secret: SecretStr = SecretStr("")
    stripe_api_base: str = ""
    """Another server that speaks Stripe's API, for tests; empty: Stripe itself."""
    public_url: str = ""
    """Where people reach this marketplace: pages of a processor lead back there."""

    confirm_email: bool = False
    """Whether a new person must show a token from a letter before signing in. Letters are sent by
    a mailer of yours (`piecework-market operator mail`), so it is off until there is one."""

    @field_validator("relays", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("relays")
    @classmethod
    def _check_relays(cls, relays: tuple[str, ...]) -> tuple[str, ...]:
        for text in relays:
            if not text.startswith(("/ip4/", "/ip6/")) or len(text) > NAME_BYTES_MAX:
                raise ValueError(f"'{text[:64]}' is not /ip4/HOST/tcp/PORT/p2p/PEERID")
        return relays

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.home / DATABASE_FILE}"


def read_config(**chosen: Path | str | int | tuple[str, ...] | None) -> MarketConfig:
    """Settings from the environment, with what is `chosen` (not None) before it.

    Raises MarketError that names the setting which cannot be.
    """
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    try:
        return MarketConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise MarketError(
            f"The setting '{name}' cannot be: {first['msg']}.",
            hint="See PIECEWORK_MARKET_* in the environment.",
        ) from None


def load_key(home: Path) -> KeyPair:
    """The marketplace's key; made on first start, readable by its owner alone.

    Raises MarketError if the file is not such a key or others may read it.
    """
    path = home / KEY_FILE
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        _write_new(path, KeyPair.generate().seed)
    seed = path.read_bytes()
    if len(seed) != SEED_BYTES:
        raise MarketError(
            f"{path} is not a marketplace key.", hint="Restore it from your backup, or remove it."
        )
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise MarketError(f"Others may read {path}.", hint=f"Run: chmod 600 {path}")
    return KeyPair(seed)


def _write_new(path: Path, seed: bytes) -> None:
    """Write 0600 from the first byte, and only if nothing is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(seed)
        file.flush()
        os.fsync(file.fileno())
