"""Web sessions: opened at sign-in, found by their token, moved on while used, listed and ended.

A session is made only once everything that was asked has been shown, and showing more (a one-time
code) makes a new token in its place: one that somebody else planted or saw before gains nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.database import Session
from marketplace.users.errors import LoginInvalid
from marketplace.users.models import LoginRow
from marketplace.users.repository import LoginRepository
from marketplace.users.tokens import (
    LOGIN_PREFIX,
    TOKEN_CHARACTERS_MAX,
    hash_token,
    make_login_id,
    make_token,
)

__all__ = [
    "FoundLogin",
    "Visitor",
    "find",
    "is_fresh",
    "listing",
    "needs_touch",
    "open_login",
    "renew",
    "revoke",
    "revoke_all",
    "touch",
]

IDLE_S = 14 * 24 * 3600
"""A session ends when it is not used for so long."""
AGE_MAX_S = 90 * 24 * 3600
"""And after this however much it is used."""
TOUCH_EVERY_S = 300
"""How exactly its last use is known: a write for each request would be no use to anybody."""
CODE_FRESH_S = 12 * 3600
"""How long a one-time code counts for what operators do: a day's work."""
LOGINS_MAX = 50
"""Open sessions of one person; the one that was used longest ago goes."""
_KIND = "login"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Where a request comes from, as far as it is told."""

    address: str
    agent: str


@dataclass(frozen=True, slots=True)
class FoundLogin:
    """A web session that is open, and what its person may be."""

    row: LoginRow
    role: str
    is_operator: bool


def open_login(
    session: Session,
    user_id: str,
    account_id: str,
    visitor: Visitor,
    *,
    now_s: int,
    code_at_s: int | None = None,
) -> str:
    """A new session; gives its token, which is shown this once."""
    repository = LoginRepository(session)
    repository.keep_newest(user_id, LOGINS_MAX - 1)
    token = make_token(LOGIN_PREFIX)
    row = LoginRow(
        token_hash=hash_token(_KIND, token),
        login_id=make_login_id(),
        user_id=user_id,
        account_id=account_id,
        address=visitor.address[:64],
        agent=visitor.agent[:128],
        created_at_s=now_s,
        seen_at_s=now_s,
        code_at_s=code_at_s,
        expires_at_s=now_s + IDLE_S,
    )
    repository.add(row)
    return token


def find(session: Session, token: str, *, now_s: int) -> FoundLogin:
    """The session behind a token; raises LoginInvalid without saying why."""
    if not token.startswith(LOGIN_PREFIX) or len(token) > TOKEN_CHARACTERS_MAX:
        raise LoginInvalid
    found = LoginRepository(session).find(hash_token(_KIND, token))
    if found is None or found[0].expires_at_s <= now_s:
        raise LoginInvalid
    return FoundLogin(*found)


def is_fresh(code_at_s: int | None, *, now_s: int) -> bool:
    """Whether a one-time code was shown lately enough for an operator's work."""
    return code_at_s is not None and now_s - code_at_s < CODE_FRESH_S


def needs_touch(row: LoginRow, *, now_s: int) -> bool:
    """Whether its last use is to be written."""
    return now_s - row.seen_at_s >= TOUCH_EVERY_S


def touch(session: Session, row: LoginRow, *, now_s: int) -> None:
    """It was used: it ends later."""
    expires_at_s = min(now_s + IDLE_S, row.created_at_s + AGE_MAX_S)
    LoginRepository(session).touch(row.token_hash, now_s, expires_at_s)


def renew(
    session: Session, login_id: str, visitor: Visitor, *, now_s: int, code_at_s: int | None
) -> str:
    """The same person's session under a new token, which is given; the old one is over.

    Raises LoginInvalid where it has just been ended.
    """
    row = LoginRepository(session).take(login_id)
    if row is None:
        raise LoginInvalid
    return open_login(
        session, row.user_id, row.account_id, visitor, now_s=now_s, code_at_s=code_at_s
    )


def listing(session: Session, user_id: str, *, now_s: int) -> Sequence[LoginRow]:
    """Every open session of a person, the last used first."""
    return [
        row
        for row in LoginRepository(session).of_user(user_id, LOGINS_MAX)
        if row.expires_at_s > now_s
    ]


def revoke(session: Session, user_id: str, login_id: str) -> bool:
    """End one of the person's own sessions; whether there was such a one."""
    return LoginRepository(session).revoke(user_id, login_id)


def revoke_all(session: Session, user_id: str, *, but: str | None = None) -> None:
    """End every session of a person, all but one where that is said."""
    LoginRepository(session).revoke_all(user_id, but)
