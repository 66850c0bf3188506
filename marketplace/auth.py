"""Who is asking: programs by API key, people by web session, nodes by signing the request.

An API key reads `pw_live_<8 id>_<43 secret>`. The id finds the row; of the secret, 256 random bits,
only a SHA-256 is stored: nothing slower is needed where nothing can be guessed.
"""

import hashlib
import hmac
import secrets
import string
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ledger.database import Session
from marketplace.errors import KeyInvalid, RequestReplayed, RequestUnsigned, ScopeMissing
from marketplace.keys.models import NonceRow
from marketplace.keys.repository import KeyRepository, NonceRepository
from marketplace.users import logins
from marketplace.users.tokens import LOGIN_PREFIX
from protocol.errors import PieceworkError
from protocol.identity import PeerId
from protocol.request import REQUEST_AGE_MAX_S, SignedRequest, verify_request

__all__ = [
    "Caller",
    "KeyUses",
    "NewKey",
    "Scope",
    "admit_node",
    "authenticate",
    "authenticate_login",
    "make_key",
    "require_scope",
    "verify_node",
]

KEY_PREFIX = "pw_live"
KEY_ID_CHARACTERS = 8
SECRET_BYTES = 32
KEY_TEXT_MAX = 128
_DOMAIN = b"piecework/api-key/v1\0"
_ID_ALPHABET = string.ascii_lowercase + string.digits


class Scope(StrEnum):
    """What an API key may do."""

    INFERENCE = "inference"
    """Ask for quotes and leases, and see what they came to."""
    MANAGEMENT = "management"
    """Make, list and revoke keys."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who acts for an account: a program with a key of it, or a person of it who is signed in."""

    account_id: str
    key_id: str | None
    """None for a person."""
    scopes: frozenset[Scope]
    """What the key was given; a person buys, and an owner manages too."""
    login: logins.FoundLogin | None = None
    """None for a program."""

    @property
    def user_id(self) -> str | None:
        """The person; None for a program."""
        return None if self.login is None else self.login.row.user_id

    @property
    def name(self) -> str:
        """Who it was, for a record: `user:<id>` or `key:<id>`."""
        return f"key:{self.key_id}" if self.login is None else f"user:{self.user_id}"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the moment it is made: `text` is shown once."""

    key_id: str
    text: str
    secret_hash: bytes


class KeyUses:
    """When each key was last used, gathered here so that no request has to write it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses: dict[str, int] = {}

    def note(self, key_id: str, now_s: int) -> None:
        with self._lock:
            self._uses[key_id] = now_s

    def take(self) -> Mapping[str, int]:
        """Everything since the last call; the worker writes it."""
        with self._lock:
            uses, self._uses = self._uses, {}
        return uses


def make_key() -> NewKey:
    """A fresh API key."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(KEY_ID_CHARACTERS))
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return NewKey(key_id, f"{KEY_PREFIX}_{key_id}_{secret}", _hash(key_id, secret))


def authenticate(session: Session, authorization: str | None, *, now_s: int) -> Caller:
    """Who an Authorization header speaks for; raises KeyInvalid or LoginInvalid, not saying why."""
    scheme, _, text = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(text) <= KEY_TEXT_MAX:
        raise KeyInvalid
    if text.startswith(LOGIN_PREFIX):
        return authenticate_login(session, text, now_s=now_s)
    start = f"{KEY_PREFIX}_"
    key_id, _, secret = text.removeprefix(start).partition("_")
    row = KeyRepository(session).find(key_id) if text.startswith(start) else None
    # compared in constant time, and also where there is no such key
    expected = row.secret_hash if row else bytes(32)
    matches = hmac.compare_digest(_hash(key_id, secret), expected)
    if row is None or not matches or row.revoked_at_s is not None:
        raise KeyInvalid
    if row.expires_at_s is not None and row.expires_at_s <= now_s:
        raise KeyInvalid
    return Caller(
        row.account_id,
        key_id,
        frozenset(Scope(s) for s in row.scopes.split(",")),
    )


def authenticate_login(session: Session, token: str, *, now_s: int) -> Caller:
    """The person behind a web session's token; raises LoginInvalid."""
    login = logins.find(session, token, now_s=now_s)
    scopes = frozenset(Scope) if login.role == "owner" else frozenset({Scope.INFERENCE})
    return Caller(login.row.account_id, None, scopes, login)


def require_scope(caller: Caller, scope: Scope) -> None:
    """Raise ScopeMissing unless the caller's key may do this."""
    if scope in caller.scopes:
        return
    if caller.key_id is None:
        raise ScopeMissing(
            "Only an owner of this account may do this.", hint="Ask one of its owners."
        )
    raise ScopeMissing(
        f"The API key {caller.key_id} has no scope '{scope}'.",
        hint="Use a key that was made with it.",
    )


def verify_node(
    headers: Mapping[str, str], method: str, target: str, body: bytes, *, now_s: float
) -> SignedRequest:
    """The node that signed a request; raises RequestUnsigned. The nonce is not yet looked at."""
    try:
        return verify_request(headers, method, target, body, now_s=now_s)
    except PieceworkError as error:
        raise RequestUnsigned(error.message, hint=error.hint) from error


def admit_node(session: Session, request: SignedRequest) -> PeerId:
    """Take a verified request once; raises RequestReplayed the second time.

    To be committed on its own: a request that is refused later must not be playable again either.
    """
    row = NonceRow(
        peer_id=str(request.peer_id),
        nonce=request.nonce,
        # believed until then by `verify_request`, whose clock may differ from ours by as much
        expires_at_s=request.timestamp_s + 2 * REQUEST_AGE_MAX_S,
    )
    if not NonceRepository(session).remember(row):
        raise RequestReplayed
    return request.peer_id


def _hash(key_id: str, secret: str) -> bytes:
    return hashlib.sha256(_DOMAIN + f"{key_id}_{secret}".encode()).digest()
