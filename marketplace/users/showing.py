"""What a person is shown of themselves, and for which account their session acts."""

from ledger.database import Session
from marketplace.accounts import service as accounts
from marketplace.errors import NotYours
from marketplace.users import logins
from marketplace.users.members import listing
from marketplace.users.models import LoginRow
from marketplace.users.repository import LoginRepository, UserRepository
from marketplace.users.schemas import (
    LoginList,
    LoginSchema,
    MemberList,
    MemberSchema,
    MeSchema,
    PlaceSchema,
)

__all__ = ["choose_account", "logins_of", "me", "members_of"]


def me(session: Session, login: LoginRow) -> MeSchema:
    """The person and their accounts."""
    repository = UserRepository(session)
    user = repository.get(login.user_id)
    places = [
        PlaceSchema.model_validate(
            {
                "account_id": place.account_id,
                "name": accounts.name_of(session, place.account_id),
                "role": place.role,
            }
        )
        for place in repository.accounts_of(user.user_id)
    ]
    return MeSchema(
        user_id=user.user_id,
        email=user.email,
        account_id=login.account_id,
        login_id=login.login_id,
        is_operator=user.is_operator,
        has_totp=user.totp_confirmed_at_s is not None,
        accounts=places,
    )


def logins_of(session: Session, login: LoginRow, *, now_s: int) -> LoginList:
    """Every open session of the person; `current` is the one that asks."""
    return LoginList(
        data=[
            LoginSchema(
                login_id=row.login_id,
                address=row.address,
                agent=row.agent,
                created_at_s=row.created_at_s,
                seen_at_s=row.seen_at_s,
                expires_at_s=row.expires_at_s,
                current=row.login_id == login.login_id,
            )
            for row in logins.listing(session, login.user_id, now_s=now_s)
        ]
    )


def members_of(session: Session, account_id: str) -> MemberList:
    """Everybody of an account."""
    return MemberList(
        data=[
            MemberSchema.model_validate(
                {
                    "user_id": row.user_id,
                    "email": email,
                    "role": row.role,
                    "created_at_s": row.created_at_s,
                }
            )
            for row, email in listing(session, account_id)
        ]
    )


def choose_account(session: Session, login: LoginRow, account_id: str) -> None:
    """The session acts for another of the person's accounts. Raises NotYours."""
    if UserRepository(session).member(account_id, login.user_id) is None:
        raise NotYours("You do not belong to an account of that id.")
    LoginRepository(session).move(login.login_id, account_id)
