"""Signing in: a password, and a one-time code from whoever asked for that.

What was wrong is never told, nobody takes as long to check as somebody, and every try is counted
before it is looked at. Each function here opens its own short transactions: no password is hashed
while the database waits.
"""

from dataclasses import dataclass

from ledger.database import Session
from marketplace.market import Market
from marketplace.users import logins
from marketplace.users.addresses import network_of
from marketplace.users.codes import is_recovery_code, recovery_hash, step_of
from marketplace.users.errors import CodeNeeded, SignInFailed
from marketplace.users.limits import (
    CODE_BY_USER,
    SIGN_IN_BY_ADDRESS,
    SIGN_IN_BY_EMAIL,
    SIGN_IN_BY_PAIR,
    Tried,
    count_attempts,
)
from marketplace.users.logins import FoundLogin, Visitor
from marketplace.users.models import UserRow
from marketplace.users.repository import LetterRepository, UserRepository
from marketplace.users.seeds import seed_of

__all__ = ["SignIn", "check_password", "count_code", "show_code", "sign_in", "spend_code"]


@dataclass(frozen=True, slots=True)
class SignIn:
    """What somebody shows. `email` is normalised; `code` of an authenticator or for recovery."""

    email: str
    password: str
    code: str | None


def sign_in(market: Market, shown: SignIn, visitor: Visitor) -> str:
    """A new web session; gives its token.

    Raises SignInFailed, CodeNeeded (the password was right), TooManyAttempts or Busy.
    """
    now_s = market.clock.now_s()
    network = network_of(visitor.address)
    count_attempts(
        market.database,
        now_s,
        Tried(SIGN_IN_BY_ADDRESS, network),
        Tried(SIGN_IN_BY_PAIR, f"{shown.email}\0{network}"),
        Tried(SIGN_IN_BY_EMAIL, shown.email),
    )
    with market.database.reading() as session:
        user = UserRepository(session).by_email(shown.email)
    fits = market.passwords.verify(user.password_hash if user else None, shown.password)
    if user is None or not fits or user.confirmed_at_s is None:
        raise SignInFailed
    asks_code = user.totp_confirmed_at_s is not None
    if asks_code and shown.code is None:
        raise CodeNeeded
    if asks_code:
        count_code(market, user.user_id)
    renewed_hash = None
    if market.passwords.is_outdated(user.password_hash):
        renewed_hash = market.passwords.hash(shown.password)
    with market.database.transaction() as session:
        return _open(session, market, user, shown, visitor, renewed_hash)


def check_password(market: Market, user_id: str, password: str, visitor: Visitor) -> UserRow:
    """The person again, who is signed in and shows the password anew for something that matters.

    Raises SignInFailed, TooManyAttempts or Busy.
    """
    now_s = market.clock.now_s()
    with market.database.reading() as session:
        user = UserRepository(session).get(user_id)
    network = network_of(visitor.address)
    count_attempts(
        market.database,
        now_s,
        Tried(SIGN_IN_BY_ADDRESS, network),
        Tried(SIGN_IN_BY_PAIR, f"{user.email}\0{network}"),
        Tried(SIGN_IN_BY_EMAIL, user.email),
    )
    if not market.passwords.verify(user.password_hash, password):
        raise SignInFailed
    return user


def show_code(market: Market, login: FoundLogin, code: str, visitor: Visitor) -> str:
    """A code in a session that is open: the session goes on under a new token, which is given.

    Raises SignInFailed or TooManyAttempts.
    """
    now_s = market.clock.now_s()
    count_code(market, login.row.user_id)
    with market.database.transaction() as session:
        user = UserRepository(session).get(login.row.user_id, lock=True)
        if user.totp_confirmed_at_s is None or not spend_code(session, market, user, code):
            raise SignInFailed
        return logins.renew(session, login.row.login_id, visitor, now_s=now_s, code_at_s=now_s)


def count_code(market: Market, user_id: str) -> None:
    """One more try at a person's codes; raises TooManyAttempts."""
    count_attempts(market.database, market.clock.now_s(), Tried(CODE_BY_USER, user_id))


def spend_code(session: Session, market: Market, user: UserRow, code: str) -> bool:
    """Whether a code is good now, for the first time: of the authenticator, or for recovery."""
    if is_recovery_code(code):
        code_hash = recovery_hash(user.user_id, code)
        return LetterRepository(session).take_recovery_code(user.user_id, code_hash)
    if user.totp_salt is None or not (code.isascii() and code.isdecimal()):
        return False
    seed = seed_of(market.key, user.user_id, user.totp_salt)
    step = step_of(seed, code, now_s=market.clock.now_s())
    return step is not None and UserRepository(session).take_step(user.user_id, step)


def _open(
    session: Session,
    market: Market,
    checked: UserRow,
    shown: SignIn,
    visitor: Visitor,
    renewed_hash: str | None,
) -> str:
    """The last look, inside the transaction that makes the session."""
    now_s = market.clock.now_s()
    repository = UserRepository(session)
    user = repository.get(checked.user_id, lock=True)
    if user.password_hash != checked.password_hash:
        raise SignInFailed  # it was changed while this one was being checked
    code_at_s = None
    if user.totp_confirmed_at_s is not None:
        if shown.code is None or not spend_code(session, market, user, shown.code):
            raise SignInFailed
        code_at_s = now_s
    if renewed_hash is not None:
        user.password_hash = renewed_hash
        repository.save(user)
    places = repository.accounts_of(user.user_id)
    if not places:
        raise SignInFailed  # thrown out of the last account they had
    return logins.open_login(
        session, user.user_id, places[0].account_id, visitor, now_s=now_s, code_at_s=code_at_s
    )
