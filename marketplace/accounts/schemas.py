"""JSON of `accounts`."""

from marketplace.fields import Name, Schema

__all__ = ["AccountCreated", "AccountSchema", "BalanceSchema", "NewAccount"]


class NewAccount(Schema):
    """What an account is called."""

    name: Name


class AccountCreated(Schema):
    """The new account and its first API key, which is never shown again."""

    account_id: str
    name: str
    api_key: str
    key_id: str


class BalanceSchema(Schema):
    """A buyer's money: available = posted - held."""

    available_nanos: int
    held_nanos: int
    posted_nanos: int


class AccountSchema(Schema):
    """A buyer as it sees itself."""

    account_id: str
    name: str
    balance: BalanceSchema
