"""Which accounts belong together, from what they share: pure, with numbers and reasons.

Only a SHA-256 of each value is stored. It keeps a card's or a bank's fingerprint out of a stolen
database; an address is short enough to be guessed from its hash, so addresses are not secret there.
"""

import hashlib
from enum import StrEnum

from marketplace.errors import MarketError

__all__ = ["VALUE_CHARACTERS_MAX", "FingerprintKind", "digest_of", "is_shared_by_too_many"]

VALUE_CHARACTERS_MAX = 256
"""A processor's fingerprint has about 16 characters, an IPv6 address 39."""

ACCOUNTS_PER_ADDRESS_MAX = 5
"""A household shares an address; mobile networks and offices share one among strangers."""

_DOMAIN = b"piecework/fingerprint/v1\0"


class FingerprintKind(StrEnum):
    """What two accounts can have in common."""

    CARD = "card"
    BANK = "bank"
    IP = "ip"


def digest_of(kind: FingerprintKind, value: str) -> bytes:
    """SHA-256 of what was seen; raises MarketError for nothing, or for too much."""
    if not 0 < len(value) <= VALUE_CHARACTERS_MAX:
        raise MarketError(f"A fingerprint has 1 to {VALUE_CHARACTERS_MAX} characters.")
    return hashlib.sha256(_DOMAIN + f"{kind.value}\0{value}".encode()).digest()


def is_shared_by_too_many(kind: FingerprintKind, accounts: int) -> bool:
    """Whether so many accounts have it in common that it says nothing about any two of them."""
    return kind is FingerprintKind.IP and accounts > ACCOUNTS_PER_ADDRESS_MAX
