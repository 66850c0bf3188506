"""Making, listing and revoking API keys."""

from ledger.database import Session
from marketplace.auth import NewKey, Scope, make_key
from marketplace.errors import Conflict, KeyUnknown
from marketplace.keys.models import KeyRow
from marketplace.keys.repository import KeyRepository
from marketplace.keys.schemas import KeyList, KeySchema

__all__ = ["create", "listing", "revoke"]

KEYS_MAX = 100
"""Keys an account may have, revoked ones included: bounds the listing."""


def create(
    session: Session, account_id: str, name: str, scopes: frozenset[Scope], *, now_s: int
) -> NewKey:
    """A new key of the account; raises Conflict above KEYS_MAX."""
    repository = KeyRepository(session)
    if len(repository.of_account(account_id)) >= KEYS_MAX:
        raise Conflict(f"An account has at most {KEYS_MAX} keys.", hint="Use one of them.")
    key = make_key()
    repository.add(
        KeyRow(
            key_id=key.key_id,
            account_id=account_id,
            name=name,
            scopes=",".join(sorted(scopes)),
            secret_hash=key.secret_hash,
            created_at_s=now_s,
        )
    )
    return key


def listing(session: Session, account_id: str) -> KeyList:
    """Every key of the account, without secrets."""
    return KeyList(
        data=[
            KeySchema(
                key_id=row.key_id,
                name=row.name,
                scopes=row.scopes.split(","),
                created_at_s=row.created_at_s,
                last_used_at_s=row.last_used_at_s,
                revoked_at_s=row.revoked_at_s,
            )
            for row in KeyRepository(session).of_account(account_id)
        ]
    )


def revoke(session: Session, account_id: str, key_id: str, *, now_s: int) -> None:
    """End a key; raises KeyUnknown where the account has no such key."""
    if not KeyRepository(session).revoke(account_id, key_id, now_s):
        raise KeyUnknown(f"This account has no key '{key_id[:16]}'.")
