"""What guards a person: passwords changed and forgotten, authenticators enrolled and removed.

Each of these ends every other session of the person, and the one it was done in goes on under a new
token. Each opens its own short transactions: no password is hashed while the database waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.database import Session
from marketplace.errors import Conflict
from marketplace.market import Market
from marketplace.users import logins
from marketplace.users.addresses import network_of
from marketplace.users.codes import (
    make_recovery_codes,
    provisioning_uri,
    recovery_hash,
    step_of,
)
from marketplace.users.errors import SignInFailed
from marketplace.users.letters import Purpose, find_token, issue_token, take_token, write
from marketplace.users.limits import (
    RESET_BY_ADDRESS,
    RESET_BY_EMAIL,
    TOKEN_BY_ADDRESS,
    Tried,
    count_attempts,
)
from marketplace.users.logins import FoundLogin, Visitor
from marketplace.users.models import UserRow
from marketplace.users.passwords import require_strong
from marketplace.users.repository import LetterRepository, UserRepository
from marketplace.users.seeds import make_salt, seed_of
from marketplace.users.signing_in import check_password, count_code, spend_code

__all__ = [
    "Enrolment",
    "begin_totp",
    "change_password",
    "confirm_totp",
    "count_forgotten",
    "remove_totp",
    "reset_password",
    "write_reset",
]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """An authenticator that was confirmed: the recovery codes are shown this once."""

    token: str
    recovery_codes: Sequence[str]


def change_password(market: Market, login: FoundLogin, old: str, new: str, visitor: Visitor) -> str:
    """Another password; gives the session's new token.

    Raises SignInFailed, PasswordWeak, TooManyAttempts or Busy.
    """
    user = check_password(market, login.row.user_id, old, visitor)
    require_strong(new, user.email)
    password_hash = market.passwords.hash(new)
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        row = UserRepository(session).get(user.user_id, lock=True)
        if row.password_hash != user.password_hash:
            raise SignInFailed  # it was changed elsewhere in the same moment
        _set_password(session, row, password_hash, now_s)
        return _go_on(session, login, visitor, now_s, code_at_s=login.row.code_at_s)


def count_forgotten(market: Market, email: str, visitor: Visitor) -> None:
    """Count a letter that is asked for; raises TooManyAttempts, for known and unknown alike."""
    count_attempts(
        market.database,
        market.clock.now_s(),
        Tried(RESET_BY_ADDRESS, network_of(visitor.address)),
        Tried(RESET_BY_EMAIL, email),
    )


def write_reset(market: Market, email: str) -> None:
    """A letter with a token for a new password, if the address is known. Meant to run after the
    answer has gone out, so that how long it takes says nothing."""
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        if UserRepository(session).by_email(email) is None:
            return
        token = issue_token(session, Purpose.RESET, email, now_s=now_s)
        text = (
            f"Set a new password with the token {token} (POST /v1/passwords) within an hour. "
            "If you did not ask for this, nothing has happened."
        )
        write(session, email, "A new password", text, now_s=now_s)


def reset_password(market: Market, token: str, password: str, visitor: Visitor) -> None:
    """Set a password with a token from a letter; every session ends. A one-time code, where there
    is one, is still asked for at sign-in. Raises TokenInvalid, PasswordWeak, TooManyAttempts."""
    now_s = market.clock.now_s()
    count_attempts(market.database, now_s, Tried(TOKEN_BY_ADDRESS, network_of(visitor.address)))
    with market.database.reading() as session:
        email = find_token(session, token, Purpose.RESET, now_s=now_s).email
    require_strong(password, email)
    password_hash = market.passwords.hash(password)
    with market.database.transaction() as session:
        row = take_token(session, token, Purpose.RESET, now_s=now_s)
        user = UserRepository(session).by_email(row.email)
        if user is not None:
            # whoever had the letter has the address
            user.confirmed_at_s = user.confirmed_at_s or now_s
            _set_password(session, user, password_hash, now_s)
            logins.revoke_all(session, user.user_id)


def begin_totp(
    market: Market, login: FoundLogin, password: str, visitor: Visitor
) -> tuple[str, str]:
    """A seed for an authenticator and its otpauth URI; nothing asks for codes before `confirm`.

    Raises SignInFailed, Conflict where one is confirmed already, TooManyAttempts or Busy.
    """
    user = check_password(market, login.row.user_id, password, visitor)
    salt = make_salt()
    with market.database.transaction() as session:
        row = UserRepository(session).get(user.user_id, lock=True)
        if row.totp_confirmed_at_s is not None:
            raise Conflict("An authenticator is enrolled already.", hint="Remove it first.")
        row.totp_salt = salt
        UserRepository(session).save(row)
    seed = seed_of(market.key, user.user_id, salt)
    return seed, provisioning_uri(seed, user.email, f"Piecework {market.config.network}")


def confirm_totp(market: Market, login: FoundLogin, code: str, visitor: Visitor) -> Enrolment:
    """The authenticator shows the right code: from now on signing in asks for one.

    Raises SignInFailed, Conflict or TooManyAttempts.
    """
    count_code(market, login.row.user_id)
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        repository = UserRepository(session)
        row = repository.get(login.row.user_id, lock=True)
        if row.totp_confirmed_at_s is not None or row.totp_salt is None:
            raise Conflict("No authenticator waits to be confirmed.", hint="POST /v1/me/totp.")
        step = step_of(seed_of(market.key, row.user_id, row.totp_salt), code, now_s=now_s)
        if step is None:
            raise SignInFailed
        row.totp_last_step, row.totp_confirmed_at_s = step, now_s
        repository.save(row)
        codes = make_recovery_codes()
        LetterRepository(session).set_recovery_codes(
            row.user_id, [recovery_hash(row.user_id, code) for code in codes]
        )
        return Enrolment(_go_on(session, login, visitor, now_s, code_at_s=now_s), codes)


def remove_totp(
    market: Market, login: FoundLogin, password: str, code: str, visitor: Visitor
) -> str:
    """No code is asked for any more; gives the session's new token.

    Raises SignInFailed, TooManyAttempts or Busy.
    """
    user = check_password(market, login.row.user_id, password, visitor)
    count_code(market, user.user_id)
    with market.database.transaction() as session:
        repository = UserRepository(session)
        row = repository.get(user.user_id, lock=True)
        if row.totp_confirmed_at_s is None or not spend_code(session, market, row, code):
            raise SignInFailed
        row.totp_salt = row.totp_confirmed_at_s = None
        repository.save(row)
        LetterRepository(session).set_recovery_codes(row.user_id, ())
        return _go_on(session, login, visitor, market.clock.now_s())


def _set_password(session: Session, row: UserRow, password_hash: str, now_s: int) -> None:
    row.password_hash, row.password_changed_at_s = password_hash, now_s
    UserRepository(session).save(row)
    LetterRepository(session).drop(row.email, Purpose.RESET)


def _go_on(
    session: Session,
    login: FoundLogin,
    visitor: Visitor,
    now_s: int,
    *,
    code_at_s: int | None = None,
) -> str:
    """This session under a new token, and no other."""
    logins.revoke_all(session, login.row.user_id, but=login.row.login_id)
    return logins.renew(session, login.row.login_id, visitor, now_s=now_s, code_at_s=code_at_s)
