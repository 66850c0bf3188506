"""Opening an account, and what it holds."""

import secrets

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.accounts.models import BuyerRow
from marketplace.accounts.repository import AccountRepository
from marketplace.accounts.schemas import AccountCreated, AccountSchema, BalanceSchema
from marketplace.auth import Scope
from marketplace.keys import service as keys

__all__ = ["create", "lock", "name_of", "open_account", "show"]

ACCOUNT_ID_BYTES = 16


def create(session: Session, name: str, *, now_s: int) -> AccountCreated:
    """Open an account with one key that may do everything."""
    account_id = open_account(session, name, now_s=now_s)
    key = keys.create(session, account_id, "first", frozenset(Scope), now_s=now_s)
    return AccountCreated(account_id=account_id, name=name, api_key=key.text, key_id=key.key_id)


def open_account(session: Session, name: str, *, now_s: int) -> str:
    """An account without a key, for a person who signs in; gives its id."""
    account_id = secrets.token_hex(ACCOUNT_ID_BYTES)
    AccountRepository(session).add(BuyerRow(account_id=account_id, name=name, created_at_s=now_s))
    return account_id


def lock(session: Session, account_id: str) -> None:
    """Let one at a time add to what the account has, where that is counted first."""
    AccountRepository(session).lock(account_id)


def name_of(session: Session, account_id: str) -> str:
    """What an account that is there is called."""
    return AccountRepository(session).get(account_id).name


def show(session: Session, account_id: str) -> AccountSchema:
    """The account and its balance."""
    row = AccountRepository(session).get(account_id)
    balance = Book(session).balance(AccountRef(AccountCode.BUYER_CASH, account_id))
    return AccountSchema(
        account_id=account_id,
        name=row.name,
        balance=BalanceSchema(
            available_nanos=balance.available_nanos,
            held_nanos=balance.debits_pending,
            posted_nanos=balance.posted_nanos,
        ),
    )
