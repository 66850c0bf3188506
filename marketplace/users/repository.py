"""Queries of `users`: people, their places in accounts, their web sessions, what they are sent."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from marketplace.users.models import (
    AttemptRow,
    InvitationRow,
    LoginRow,
    MailRow,
    MemberRow,
    RecoveryCodeRow,
    UserRow,
)

__all__ = ["AttemptRepository", "LetterRepository", "LoginRepository", "UserRepository"]


class UserRepository:
    """People and where they belong."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: UserRow) -> None:
        self._session.add(row)
        self._session.flush()

    def get(self, user_id: str, *, lock: bool = False) -> UserRow:
        """Somebody who is known to be there; `lock`: until the transaction ends."""
        return self._session.get_one(UserRow, user_id, with_for_update=True if lock else None)

    def by_email(self, email: str) -> UserRow | None:
        return self._session.exec(select(UserRow).where(UserRow.email == email)).one_or_none()

    def save(self, row: UserRow) -> None:
        self._session.add(row)
        self._session.flush()

    def take_step(self, user_id: str, step: int) -> bool:
        """Note the step of a one-time code; False if it or a later one was taken before."""
        query = (
            update(UserRow)
            .where(col(UserRow.user_id) == user_id, col(UserRow.totp_last_step) < step)
            .values(totp_last_step=step)
        )
        return bool(self._session.execute(query.returning(col(UserRow.user_id))).first())

    def add_member(self, row: MemberRow) -> None:
        self._session.add(row)
        self._session.flush()

    def member(self, account_id: str, user_id: str) -> MemberRow | None:
        return self._session.get(MemberRow, (account_id, user_id))

    def accounts_of(self, user_id: str) -> Sequence[MemberRow]:
        """The person's places, the oldest first."""
        query = select(MemberRow).where(MemberRow.user_id == user_id)
        return self._session.exec(
            query.order_by(col(MemberRow.created_at_s), MemberRow.account_id)
        ).all()

    def members_of(self, account_id: str) -> Sequence[tuple[MemberRow, str]]:
        """Everybody of an account with their address, the oldest first."""
        query = (
            select(MemberRow, UserRow.email)
            .join(UserRow, col(UserRow.user_id) == col(MemberRow.user_id))
            .where(MemberRow.account_id == account_id)
            .order_by(col(MemberRow.created_at_s), MemberRow.user_id)
        )
        return self._session.exec(query).all()

    def lock_members(self, account_id: str) -> Mapping[str, MemberRow]:
        """Everybody of the account by user id, held until the transaction ends."""
        query = select(MemberRow).where(MemberRow.account_id == account_id)
        rows = self._session.exec(query.order_by(MemberRow.user_id).with_for_update())
        return {row.user_id: row for row in rows}

    def member_count(self, account_id: str) -> int:
        query = select(func.count()).where(MemberRow.account_id == account_id)
        return self._session.exec(query).one()

    def owner_count(self, account_id: str) -> int:
        query = select(func.count()).where(
            MemberRow.account_id == account_id, MemberRow.role == "owner"
        )
        return self._session.exec(query).one()

    def remove_member(self, row: MemberRow) -> None:
        self._session.delete(row)
        self._session.flush()


class LoginRepository:
    """Web sessions."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: LoginRow) -> None:
        self._session.add(row)
        self._session.flush()

    def find(self, token_hash: bytes) -> tuple[LoginRow, str, bool] | None:
        """The session, the person's role in its account, and whether they are an operator.

        None also where the person is no longer of that account.
        """
        query = (
            select(LoginRow, MemberRow.role, UserRow.is_operator)
            .join(UserRow, col(UserRow.user_id) == col(LoginRow.user_id))
            .join(
                MemberRow,
                (col(MemberRow.user_id) == col(LoginRow.user_id))
                & (col(MemberRow.account_id) == col(LoginRow.account_id)),
            )
            .where(LoginRow.token_hash == token_hash)
        )
        found = self._session.exec(query).one_or_none()
        return None if found is None else (found[0], found[1], found[2])

    def touch(self, token_hash: bytes, seen_at_s: int, expires_at_s: int) -> None:
        self._session.execute(
            update(LoginRow)
            .where(col(LoginRow.token_hash) == token_hash)
            .values(seen_at_s=seen_at_s, expires_at_s=expires_at_s)
        )

    def take(self, login_id: str) -> LoginRow | None:
        """Remove one and give it; None for the second who tries."""
        query = delete(LoginRow).where(col(LoginRow.login_id) == login_id)
        return self._session.scalars(query.returning(LoginRow)).one_or_none()

    def move(self, login_id: str, account_id: str) -> None:
        """The session acts for another account from now on."""
        self._session.execute(
            update(LoginRow).where(col(LoginRow.login_id) == login_id).values(account_id=account_id)
        )

    def of_user(self, user_id: str, limit: int) -> Sequence[LoginRow]:
        """The last used first."""
        query = select(LoginRow).where(LoginRow.user_id == user_id)
        return self._session.exec(query.order_by(col(LoginRow.seen_at_s).desc()).limit(limit)).all()

    def keep_newest(self, user_id: str, count: int) -> None:
        """Drop those of the person that were used longest ago, above `count`."""
        newest = (
            select(LoginRow.token_hash)
            .where(LoginRow.user_id == user_id)
            .order_by(col(LoginRow.seen_at_s).desc())
            .limit(count)
        )
        self._session.execute(
            delete(LoginRow).where(
                col(LoginRow.user_id) == user_id, col(LoginRow.token_hash).not_in(newest)
            )
        )

    def revoke(self, user_id: str, login_id: str) -> bool:
        query = delete(LoginRow).where(
            col(LoginRow.user_id) == user_id, col(LoginRow.login_id) == login_id
        )
        return bool(self._session.execute(query.returning(col(LoginRow.login_id))).first())

    def revoke_all(self, user_id: str, but: str | None) -> None:
        query = delete(LoginRow).where(col(LoginRow.user_id) == user_id)
        if but is not None:
            query = query.where(col(LoginRow.login_id) != but)
        self._session.execute(query)

    def forget_expired(self, now_s: int) -> None:
        self._session.execute(delete(LoginRow).where(col(LoginRow.expires_at_s) <= now_s))


class LetterRepository:
    """Tokens that people were sent, the letters they are in, and recovery codes."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: InvitationRow | MailRow) -> None:
        self._session.add(row)
        self._session.flush()

    def find(self, token_hash: bytes) -> InvitationRow | None:
        return self._session.get(InvitationRow, token_hash)

    def take(self, token_hash: bytes) -> bool:
        """Whether it was still there: a token is taken once, by whoever is first."""
        query = delete(InvitationRow).where(col(InvitationRow.token_hash) == token_hash)
        return bool(self._session.execute(query.returning(col(InvitationRow.purpose))).first())

    def drop(self, email: str, purpose: str) -> None:
        """An older token of the kind is over as soon as a newer is sent."""
        self._session.execute(
            delete(InvitationRow).where(
                col(InvitationRow.email) == email, col(InvitationRow.purpose) == purpose
            )
        )

    def untaken(self, limit: int) -> Sequence[MailRow]:
        """Letters that nobody took to send yet, the oldest first, held until the end."""
        query = select(MailRow).where(col(MailRow.taken_at_s).is_(None)).order_by(col(MailRow.id))
        return self._session.exec(query.limit(limit).with_for_update(skip_locked=True)).all()

    def set_recovery_codes(self, user_id: str, code_hashes: Sequence[bytes]) -> None:
        """These and no others."""
        self._session.execute(
            delete(RecoveryCodeRow).where(col(RecoveryCodeRow.user_id) == user_id)
        )
        self._session.add_all(
            RecoveryCodeRow(user_id=user_id, code_hash=code_hash) for code_hash in code_hashes
        )
        self._session.flush()

    def take_recovery_code(self, user_id: str, code_hash: bytes) -> bool:
        """Whether it was one of theirs; it is none any more."""
        query = delete(RecoveryCodeRow).where(
            col(RecoveryCodeRow.user_id) == user_id, col(RecoveryCodeRow.code_hash) == code_hash
        )
        return bool(self._session.execute(query.returning(col(RecoveryCodeRow.user_id))).first())

    def forget_expired(self, now_s: int, mail_before_s: int) -> None:
        """Tokens that are over, and letters that were taken to be sent before a time."""
        self._session.execute(delete(InvitationRow).where(col(InvitationRow.expires_at_s) <= now_s))
        self._session.execute(delete(MailRow).where(col(MailRow.taken_at_s) < mail_before_s))


class AttemptRepository:
    """Counters of attempts."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def count(self, subject: bytes, window_start_s: int, expires_at_s: int) -> int:
        """One more of a subject (32 bytes) in a window; how many that makes."""
        on_sqlite = self._session.get_bind().dialect.name == "sqlite"
        insert = sqlite.insert if on_sqlite else postgresql.insert
        statement = insert(AttemptRow).values(
            subject=subject, window_start_s=window_start_s, attempts=1, expires_at_s=expires_at_s
        )
        counted = statement.on_conflict_do_update(
            index_elements=["subject", "window_start_s"],
            set_={"attempts": col(AttemptRow.attempts) + 1},
        ).returning(col(AttemptRow.attempts))
        return int(self._session.execute(counted).scalar_one())

    def forget_expired(self, now_s: int) -> None:
        self._session.execute(delete(AttemptRow).where(col(AttemptRow.expires_at_s) <= now_s))
