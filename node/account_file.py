"""The buyer's keys of a home, one for each marketplace: `accounts.json`, for its owner's eyes."""

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from node.errors import ConfigInvalid

__all__ = ["AccountFile", "StoredAccount"]

FILE = "accounts.json"
BYTES_MAX = 256 * 1024
"""A thousand marketplaces."""


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """A key, and whose it is."""

    account_id: str
    account_name: str
    key_id: str
    api_key: str


class AccountFile:
    """What `piecework login` keeps in a home. Raises ConfigInvalid when others could read it or
    it is damaged."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE

    def find(self, market_url: str) -> StoredAccount | None:
        """The account at a marketplace; None where nobody has signed in."""
        return self._read().get(_name(market_url))

    def store(self, market_url: str, account: StoredAccount) -> None:
        """Keep it, in the place of another at the same marketplace."""
        self._write(self._read() | {_name(market_url): account})

    def remove(self, market_url: str) -> None:
        """Forget it; what is not there is no error."""
        accounts = self._read()
        if accounts.pop(_name(market_url), None) is not None:
            self._write(accounts)

    def _read(self) -> dict[str, StoredAccount]:
        if not self._path.exists():
            return {}
        if os.name == "posix" and self._path.stat().st_mode & 0o077:
            raise ConfigInvalid(
                f"The keys in {self._path} can be read by others.",
                hint=f"Run: chmod 600 {self._path}",
            )
        try:
            with self._path.open("rb") as file:
                data = json.loads(file.read(BYTES_MAX))
            return {str(url): StoredAccount(**account) for url, account in data.items()}
        except (ValueError, TypeError, AttributeError):
            raise ConfigInvalid(
                f"{self._path} is damaged.", hint="Remove it, and sign in again."
            ) from None

    def _write(self, accounts: dict[str, StoredAccount]) -> None:
        """Whole or not at all, and 0600 from the first byte."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._path.with_name(f".{FILE}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({url: asdict(account) for url, account in accounts.items()}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


def _name(market_url: str) -> str:
    return market_url.rstrip("/")
