"""Seeds of authenticators: derived from the marketplace's own key, and so stored nowhere.

A person's seed is an HMAC-SHA256 of their id and a random salt, under a key made of the
marketplace's Ed25519 seed; the database holds the salt alone, and a copy of it lets nobody make
codes. With another marketplace key every authenticator is void; recovery codes are not.
"""

import base64
import hashlib
import hmac
import secrets

from protocol.identity import KeyPair

__all__ = ["make_salt", "seed_of"]

SALT_BYTES = 16
SEED_BYTES = 20
"""160 bits, as RFC 4226 asks: 32 characters of base32."""
_PERSON = b"piecework totp"
"""BLAKE2b's personalisation: keeps this key apart from every other use of the seed."""


def make_salt() -> bytes:
    """For one enrolment: another salt is another authenticator."""
    return secrets.token_bytes(SALT_BYTES)


def seed_of(key: KeyPair, user_id: str, salt: bytes) -> str:
    """The seed in base32, as authenticators take it."""
    own_key = hashlib.blake2b(key.seed, digest_size=32, person=_PERSON).digest()
    digest = hmac.digest(own_key, salt + user_id.encode(), "sha256")
    return base64.b32encode(digest[:SEED_BYTES]).decode()
