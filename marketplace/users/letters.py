"""Letters: what people are sent, and the tokens in them.

Nothing here sends anything: letters wait in `market_mail`, and whoever runs the marketplace takes
them with `piecework-market operator mail`, by hand or from a mailer's script.
"""

from collections.abc import Sequence
from enum import StrEnum

from ledger.database import Session
from marketplace.users.errors import TokenInvalid
from marketplace.users.models import InvitationRow, MailRow
from marketplace.users.repository import LetterRepository
from marketplace.users.tokens import TOKEN_CHARACTERS_MAX, hash_token, make_token

__all__ = ["Purpose", "find_token", "issue_token", "take_letters", "take_token", "write"]

LETTERS_AT_ONCE = 100


class Purpose(StrEnum):
    """What a token lets its bearer do, once."""

    CONFIRM = "confirm"
    RESET = "reset"
    MEMBER = "member"
    OPERATOR = "operator"


LIFETIME_S = {
    Purpose.CONFIRM: 2 * 24 * 3600,
    Purpose.RESET: 3600,
    Purpose.MEMBER: 7 * 24 * 3600,
    Purpose.OPERATOR: 24 * 3600,
}
"""How long each is good: the more it opens, the shorter; a colleague may be away for a week."""


def issue_token(
    session: Session, purpose: Purpose, email: str, *, now_s: int, account_id: str | None = None
) -> str:
    """A token for this address; an older one of its kind is over, but for other accounts'."""
    repository = LetterRepository(session)
    if purpose is not Purpose.MEMBER:
        repository.drop(email, purpose)
    token = make_token()
    repository.add(
        InvitationRow(
            token_hash=hash_token("letter", token),
            purpose=purpose,
            email=email,
            account_id=account_id,
            created_at_s=now_s,
            expires_at_s=now_s + LIFETIME_S[purpose],
        )
    )
    return token


def find_token(session: Session, token: str, *purposes: Purpose, now_s: int) -> InvitationRow:
    """What a token is for, without taking it. Raises TokenInvalid."""
    row = None
    if len(token) <= TOKEN_CHARACTERS_MAX:
        row = LetterRepository(session).find(hash_token("letter", token))
    if row is None or row.purpose not in purposes or row.expires_at_s <= now_s:
        raise TokenInvalid
    return row


def take_token(session: Session, token: str, *purposes: Purpose, now_s: int) -> InvitationRow:
    """Take a token: it is good this once. Raises TokenInvalid."""
    row = find_token(session, token, *purposes, now_s=now_s)
    if not LetterRepository(session).take(row.token_hash):
        raise TokenInvalid
    return row


def write(session: Session, email: str, subject: str, text: str, *, now_s: int) -> None:
    """A letter that waits to be sent."""
    row = MailRow(email=email, subject=subject, text=text, created_at_s=now_s)
    LetterRepository(session).add(row)


def take_letters(session: Session, *, now_s: int) -> Sequence[MailRow]:
    """Letters to send, the oldest first and a hundred at once; they are not given again."""
    rows = LetterRepository(session).untaken(LETTERS_AT_ONCE)
    for row in rows:
        row.taken_at_s = now_s
    session.flush()
    return rows
