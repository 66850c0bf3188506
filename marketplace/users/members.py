"""Who belongs to an account: invited by letter, listed, sent away; and taking over an account that
had only keys."""

from collections.abc import Sequence

from ledger.database import Session
from marketplace.accounts import service as accounts
from marketplace.auth import Caller
from marketplace.errors import Conflict, NotYours
from marketplace.users.letters import Purpose, issue_token, write
from marketplace.users.models import MemberRow
from marketplace.users.repository import UserRepository
from marketplace.users.signing_up import join, require_room

__all__ = ["claim", "invite", "listing", "remove", "set_role"]


def listing(session: Session, account_id: str) -> Sequence[tuple[MemberRow, str]]:
    """Everybody of the account with their address, the oldest first."""
    return UserRepository(session).members_of(account_id)


def invite(session: Session, account_id: str, email: str, *, now_s: int) -> None:
    """A letter to somebody who may join; the same whether the address is known or not.

    Raises AccountFull.
    """
    require_room(session, account_id)
    token = issue_token(session, Purpose.MEMBER, email, account_id=account_id, now_s=now_s)
    name = accounts.name_of(session, account_id)
    text = (
        f"You are invited to the account '{name}'. Sign up with the token {token}, or if you are "
        "signed in, POST it to /v1/invitations. It is good for a week."
    )
    write(session, email, f"An invitation to '{name}'"[:128], text, now_s=now_s)


def remove(session: Session, account_id: str, user_id: str) -> None:
    """Somebody leaves; their sessions for this account are over with that.

    Raises NotYours for one who is not there, and Conflict for the last owner.
    """
    repository = UserRepository(session)
    row = _member(repository, account_id, user_id)
    repository.remove_member(row)
    _keep_an_owner(repository, account_id)


def set_role(session: Session, account_id: str, user_id: str, role: str) -> None:
    """Make somebody an owner, or a member. Raises NotYours, or Conflict for the last owner."""
    repository = UserRepository(session)
    row = _member(repository, account_id, user_id)
    row.role = role
    repository.add_member(row)
    _keep_an_owner(repository, account_id)


def claim(session: Session, user_id: str, key: Caller, *, now_s: int) -> None:
    """A person becomes the owner of an account that had keys alone, by showing one that manages it.

    Raises Conflict where somebody owns it already.
    """
    # of two who claim it at once the second must see the first
    accounts.lock(session, key.account_id)
    if listing(session, key.account_id):
        raise Conflict("Somebody owns this account already.", hint="Ask them for an invitation.")
    join(session, user_id, key.account_id, "owner", now_s=now_s)


def _member(repository: UserRepository, account_id: str, user_id: str) -> MemberRow:
    # all rows of the account are locked: two owners must not both leave, each seeing the other
    row = repository.lock_members(account_id).get(user_id)
    if row is None:
        raise NotYours("Nobody of that id belongs to this account.")
    return row


def _keep_an_owner(repository: UserRepository, account_id: str) -> None:
    if not repository.owner_count(account_id):
        raise Conflict("An account keeps one owner.", hint="Make somebody else an owner first.")
