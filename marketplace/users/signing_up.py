"""Signing up, confirming an address, joining an account.

Signing up answers the same whether the address is known or not; its owner alone is told, by letter.
A password is hashed before the transaction, which would hold the database meanwhile.
"""

from dataclasses import dataclass

from ledger.database import Session
from marketplace.accounts import service as accounts
from marketplace.errors import Conflict
from marketplace.market import Market
from marketplace.users.addresses import network_of
from marketplace.users.errors import AccountFull, TokenInvalid
from marketplace.users.letters import (
    Purpose,
    find_token,
    issue_token,
    take_token,
    write,
)
from marketplace.users.limits import SIGN_UP_BY_ADDRESS, Tried, count_attempts
from marketplace.users.logins import Visitor
from marketplace.users.models import InvitationRow, MemberRow, UserRow
from marketplace.users.passwords import require_strong
from marketplace.users.repository import UserRepository
from marketplace.users.tokens import make_user_id

__all__ = ["SignUp", "accept", "confirm", "join", "require_room", "sign_up"]

MEMBERS_MAX = 100
"""Of one account: bounds the listing."""

INVITATIONS = (Purpose.MEMBER, Purpose.OPERATOR)


@dataclass(frozen=True, slots=True)
class SignUp:
    """What somebody gives who wants an account. `email` is normalised."""

    email: str
    password: str
    account_name: str
    token: str | None
    """Of an invitation: then its account is joined, or the marketplace's operators are."""


def sign_up(market: Market, wanted: SignUp, visitor: Visitor) -> None:
    """Make a person and their account. Opens its own transactions.

    Raises PasswordWeak, TooManyAttempts, Busy, TokenInvalid or AccountFull; never tells of a known
    address.
    """
    now_s = market.clock.now_s()
    count_attempts(market.database, now_s, Tried(SIGN_UP_BY_ADDRESS, network_of(visitor.address)))
    require_strong(wanted.password, wanted.email)
    password_hash = market.passwords.hash(wanted.password)
    try:
        with market.database.transaction() as session:
            _sign_up(session, market, wanted, password_hash)
    except Conflict:
        # somebody signed up with this address in the same moment: now it is known
        with market.database.transaction() as session:
            _tell_owner(session, wanted.email, now_s)


def confirm(session: Session, token: str, *, now_s: int) -> None:
    """The address is theirs: they had the letter. Raises TokenInvalid."""
    row = take_token(session, token, Purpose.CONFIRM, now_s=now_s)
    repository = UserRepository(session)
    user = repository.by_email(row.email)
    if user is not None and user.confirmed_at_s is None:
        user.confirmed_at_s = now_s
        repository.save(user)


def accept(session: Session, user_id: str, token: str, *, now_s: int) -> None:
    """A person who is signed in takes an invitation that was sent to their address.

    Raises TokenInvalid, for another's address too, AccountFull, and Conflict where they are there
    already.
    """
    user = UserRepository(session).get(user_id)
    _become(session, user, _take_invitation(session, token, user.email, now_s), now_s)


def join(session: Session, user_id: str, account_id: str, role: str, *, now_s: int) -> None:
    """Give a person a place in an account. Raises Conflict where they have one, or AccountFull."""
    # more may be invited than there is room for: of two who come at once the second sees the first
    accounts.lock(session, account_id)
    repository = UserRepository(session)
    if repository.member(account_id, user_id) is not None:
        raise Conflict("They belong to this account already.")
    require_room(session, account_id)
    repository.add_member(
        MemberRow(account_id=account_id, user_id=user_id, role=role, created_at_s=now_s)
    )


def require_room(session: Session, account_id: str) -> None:
    """Raise AccountFull unless one more may belong to it."""
    if UserRepository(session).member_count(account_id) >= MEMBERS_MAX:
        raise AccountFull(MEMBERS_MAX)


def _sign_up(session: Session, market: Market, wanted: SignUp, password_hash: str) -> None:
    now_s = market.clock.now_s()
    repository = UserRepository(session)
    # before the address is looked up: a wrong token must not tell whether it is known
    invitation = None
    if wanted.token is not None:
        invitation = _take_invitation(session, wanted.token, wanted.email, now_s)
    if repository.by_email(wanted.email) is not None:
        _tell_owner(session, wanted.email, now_s)
        return
    is_confirmed = invitation is not None or not market.config.confirm_email
    user = UserRow(
        user_id=make_user_id(),
        email=wanted.email,
        password_hash=password_hash,
        created_at_s=now_s,
        confirmed_at_s=now_s if is_confirmed else None,
        password_changed_at_s=now_s,
    )
    repository.add(user)
    if invitation is None or invitation.account_id is None:
        account_id = accounts.open_account(session, wanted.account_name, now_s=now_s)
        join(session, user.user_id, account_id, "owner", now_s=now_s)
    if invitation is not None:
        _become(session, user, invitation, now_s)
    if not is_confirmed:
        token = issue_token(session, Purpose.CONFIRM, user.email, now_s=now_s)
        text = f"Confirm this address with the token {token} (POST /v1/users/confirm)."
        write(session, user.email, "Confirm your address", text, now_s=now_s)


def _take_invitation(session: Session, token: str, email: str, now_s: int) -> InvitationRow:
    """Raises TokenInvalid for another's, as if it did not exist."""
    if find_token(session, token, *INVITATIONS, now_s=now_s).email != email:
        raise TokenInvalid
    return take_token(session, token, *INVITATIONS, now_s=now_s)


def _become(session: Session, user: UserRow, invitation: InvitationRow, now_s: int) -> None:
    if invitation.account_id is not None:
        join(session, user.user_id, invitation.account_id, "member", now_s=now_s)
        return
    user.is_operator = True
    UserRepository(session).save(user)


def _tell_owner(session: Session, email: str, now_s: int) -> None:
    text = (
        "Somebody signed up with your address, which has an account already. If it was you, sign "
        "in, or ask for a new password. If not, nothing has happened."
    )
    write(session, email, "You have an account already", text, now_s=now_s)
