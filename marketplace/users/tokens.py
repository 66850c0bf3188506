"""Secrets that are handed out once and kept as hashes: web sessions, letters' links, device codes.

Each has 256 random bits, so its SHA-256 is enough: nothing slower is needed where nothing can be
guessed. A domain string stands before each kind, so that none can be shown in another's place.
"""

import hashlib
import secrets

__all__ = [
    "LOGIN_PREFIX",
    "TOKEN_CHARACTERS_MAX",
    "hash_token",
    "make_login_id",
    "make_token",
    "make_user_id",
]

LOGIN_PREFIX = "pws_"
"""What a web session's token begins with: an API key begins `pw_live_`."""
TOKEN_BYTES = 32
TOKEN_CHARACTERS_MAX = 64
LOGIN_ID_BYTES = 8
USER_ID_BYTES = 16
_DOMAIN = b"piecework/token/v1\0"


def make_token(prefix: str = "") -> str:
    """256 random bits as text."""
    return prefix + secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(kind: str, text: str) -> bytes:
    """32 bytes to look a token of this kind up by."""
    return hashlib.sha256(_DOMAIN + kind.encode() + b"\0" + text.encode()).digest()


def make_login_id() -> str:
    return secrets.token_hex(LOGIN_ID_BYTES)


def make_user_id() -> str:
    return secrets.token_hex(USER_ID_BYTES)
