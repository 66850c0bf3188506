"""JSON of `users`."""

from typing import Literal

from pydantic import Field

from marketplace.fields import Name, Schema
from marketplace.users.addresses import EmailText
from marketplace.users.tokens import TOKEN_CHARACTERS_MAX

__all__ = [
    "AccountChoice",
    "ClaimSchema",
    "CodeSchema",
    "EmailSchema",
    "EnrolmentSchema",
    "LoginList",
    "LoginSchema",
    "MeSchema",
    "MemberList",
    "MemberSchema",
    "NewPassword",
    "PasswordChange",
    "PasswordSchema",
    "PlaceSchema",
    "RoleSchema",
    "SignInSchema",
    "SignUpSchema",
    "SignedIn",
    "TokenSchema",
    "TotpRemoval",
    "TotpSeed",
]

PASSWORD_TEXT_MAX = 1024
"""Above what is taken as one: `passwords.require_strong` says the limit in words."""
CODE_TEXT_MAX = 32

Role = Literal["owner", "member"]


class SignUpSchema(Schema):
    """Who wants an account."""

    email: EmailText
    password: str = Field(max_length=PASSWORD_TEXT_MAX, repr=False)
    account_name: Name = "My account"
    token: str | None = Field(default=None, max_length=TOKEN_CHARACTERS_MAX, repr=False)
    """Of an invitation."""


class SignInSchema(Schema):
    """What is shown to sign in."""

    email: EmailText
    password: str = Field(max_length=PASSWORD_TEXT_MAX, repr=False)
    code: str | None = Field(default=None, max_length=CODE_TEXT_MAX, repr=False)
    """Of an authenticator, or a recovery code; where one is enrolled."""
    cookie: bool = False
    """For pages: the token comes as an HttpOnly cookie and not in the answer."""


class SignedIn(Schema):
    """A session's token, which is never shown again; None where it is in a cookie."""

    token: str | None


class EnrolmentSchema(SignedIn):
    """An authenticator is enrolled; each recovery code stands in for it once."""

    recovery_codes: list[str]


class EmailSchema(Schema):
    """Whom a letter is for."""

    email: EmailText


class TokenSchema(Schema):
    """A token from a letter."""

    token: str = Field(max_length=TOKEN_CHARACTERS_MAX, repr=False)


class NewPassword(TokenSchema):
    """A password in the place of a forgotten one."""

    password: str = Field(max_length=PASSWORD_TEXT_MAX, repr=False)


class PasswordSchema(Schema):
    """The password again, for something that matters."""

    password: str = Field(max_length=PASSWORD_TEXT_MAX, repr=False)


class PasswordChange(PasswordSchema):
    """The old password and the new."""

    new_password: str = Field(max_length=PASSWORD_TEXT_MAX, repr=False)


class CodeSchema(Schema):
    """A one-time code."""

    code: str = Field(max_length=CODE_TEXT_MAX, repr=False)


class TotpRemoval(PasswordSchema):
    """What it takes to be asked for no code any more."""

    code: str = Field(max_length=CODE_TEXT_MAX, repr=False)


class TotpSeed(Schema):
    """What an authenticator is told: as text, and as the URI of a QR code."""

    secret: str
    uri: str


class AccountChoice(Schema):
    """One of the person's accounts."""

    account_id: str = Field(max_length=32)


class ClaimSchema(Schema):
    """An API key with the scope 'management' of the account that is taken over."""

    api_key: str = Field(max_length=128, repr=False)


class PlaceSchema(Schema):
    """An account, and what the person is in it."""

    account_id: str
    name: str
    role: Role


class MeSchema(Schema):
    """The person behind a session."""

    user_id: str
    email: str
    account_id: str
    """That the session acts for."""
    login_id: str
    is_operator: bool
    has_totp: bool
    accounts: list[PlaceSchema]


class LoginSchema(Schema):
    """One open session."""

    login_id: str
    address: str
    agent: str
    created_at_s: int
    seen_at_s: int
    expires_at_s: int
    current: bool


class LoginList(Schema):
    """Every open session of the person, the last used first."""

    data: list[LoginSchema]


class MemberSchema(Schema):
    """Somebody of an account."""

    user_id: str
    email: str
    role: Role
    created_at_s: int


class MemberList(Schema):
    """Everybody of an account, the oldest first."""

    data: list[MemberSchema]


class RoleSchema(Schema):
    """What somebody is to be in the account."""

    role: Role
