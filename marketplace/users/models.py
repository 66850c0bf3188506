"""Tables of `users`. Of whatever lets somebody in, only a hash is here."""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary
from sqlmodel import Field

from ledger.database import Base, BigInt, BigIntOrNone, RowId
from ledger.digested import DigestedBase

__all__ = [
    "AttemptRow",
    "InvitationRow",
    "LoginRow",
    "MailRow",
    "MemberRow",
    "RecoveryCodeRow",
    "UserRow",
]


class UserRow(DigestedBase, table=True):
    """One person, known by an e-mail address."""

    __tablename__: ClassVar[str] = "market_user"
    __table_args__ = (CheckConstraint("length(email) > 2", name="email"),)

    user_id: str = Field(primary_key=True, max_length=32)
    """128 random bits in hex."""
    email: str = Field(max_length=254, unique=True)
    """As `addresses.normalise` writes it."""
    password_hash: str = Field(max_length=256)
    """Argon2id in PHC form: parameters, salt and hash."""
    is_operator: bool = False
    """Of the marketplace itself, not of an account."""
    totp_salt: bytes | None = Field(default=None, max_length=16)
    """Of the authenticator's seed (`seeds`), which is stored nowhere; there from enrolment on."""
    totp_confirmed_at_s: BigIntOrNone = None
    """From then on signing in asks for a code."""
    totp_last_step: BigInt = 0
    """The 30 s step of the last code that was taken: none of that step or before is taken again."""
    created_at_s: BigInt
    confirmed_at_s: BigIntOrNone = None
    """When the address was shown to be theirs, or sign-up when the marketplace does not ask."""
    password_changed_at_s: BigInt


class MemberRow(DigestedBase, table=True):
    """A person's place in an account."""

    __tablename__: ClassVar[str] = "market_member"
    __table_args__ = (CheckConstraint("role IN ('owner', 'member')", name="role"),)

    account_id: str = Field(
        primary_key=True, max_length=32, foreign_key="market_account.account_id"
    )
    user_id: str = Field(
        primary_key=True, max_length=32, foreign_key="market_user.user_id", index=True
    )
    role: str = Field(max_length=8)
    created_at_s: BigInt


class LoginRow(DigestedBase, table=True):
    """One web session: a person, signed in somewhere, acting for one of their accounts."""

    __tablename__: ClassVar[str] = "market_login"
    __table_args__ = (CheckConstraint("length(token_hash) = 32", name="token_hash"),)

    token_hash: bytes = Field(primary_key=True, max_length=32)
    login_id: str = Field(max_length=16, unique=True)
    """Names it in lists; opens nothing."""
    user_id: str = Field(max_length=32, foreign_key="market_user.user_id", index=True)
    account_id: str = Field(max_length=32, foreign_key="market_account.account_id")
    address: str = Field(max_length=64)
    """Where it was made from, as its owner is shown it."""
    agent: str = Field(max_length=128)
    created_at_s: BigInt
    seen_at_s: BigInt
    """To `logins.TOUCH_EVERY_S`."""
    code_at_s: BigIntOrNone = None
    """When a one-time code was last shown in it."""
    expires_at_s: int = Field(sa_type=BigInteger, index=True)
    """Moves on while it is used."""


class RecoveryCodeRow(DigestedBase, table=True):
    """A code that stands in for a lost authenticator, once."""

    __tablename__: ClassVar[str] = "market_recovery_code"
    __table_args__ = (CheckConstraint("length(code_hash) = 32", name="code_hash"),)

    user_id: str = Field(primary_key=True, max_length=32, foreign_key="market_user.user_id")
    code_hash: bytes = Field(primary_key=True, max_length=32)


class InvitationRow(DigestedBase, table=True):
    """A token that somebody was sent: to confirm, to set a password, to become something."""

    __tablename__: ClassVar[str] = "market_invitation"
    __table_args__ = (
        CheckConstraint("length(token_hash) = 32", name="token_hash"),
        CheckConstraint("purpose IN ('confirm', 'reset', 'member', 'operator')", name="purpose"),
        CheckConstraint("(purpose = 'member') = (account_id IS NOT NULL)", name="account"),
        Index(None, "email", "purpose"),
    )

    token_hash: bytes = Field(primary_key=True, max_length=32)
    purpose: str = Field(max_length=8)
    email: str = Field(max_length=254)
    account_id: str | None = Field(
        default=None, max_length=32, foreign_key="market_account.account_id"
    )
    """Which they may join."""
    created_at_s: BigInt
    expires_at_s: int = Field(sa_type=BigInteger, index=True)


class MailRow(DigestedBase, table=True):
    """A letter to be sent. Nothing here sends it: `piecework-market operator mail` hands it on."""

    __tablename__: ClassVar[str] = "market_mail"
    __table_args__ = (Index(None, "taken_at_s", "id"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=RowId)
    email: str = Field(max_length=254)
    subject: str = Field(max_length=128)
    text: str
    created_at_s: BigInt
    taken_at_s: BigIntOrNone = None


class AttemptRow(Base, table=True):
    """How often something was tried in one window of time (`limits`)."""

    __tablename__: ClassVar[str] = "market_attempt"
    __table_args__ = (
        CheckConstraint("length(subject) = 32", name="subject"),
        CheckConstraint("attempts > 0", name="attempts"),
    )

    subject: bytes = Field(primary_key=True, sa_type=LargeBinary)
    """SHA-256 of what is limited and for whom: no address stands here."""
    window_start_s: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    attempts: BigInt
    expires_at_s: int = Field(sa_type=BigInteger, index=True)
