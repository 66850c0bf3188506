"""The chart of accounts: every place money can be, and which of them may not go below zero.

Amounts are nanos. A balance is credits minus debits: what we owe (buyers, providers) and what we
have earned is positive, what a processor owes us is negative. The clearing account is passed
through inside one SQL transaction and returns to zero. A code comes with what first posts to it.
"""

from dataclasses import dataclass
from enum import StrEnum

from ledger.errors import LedgerError

__all__ = ["OWNER_CHARACTERS_MAX", "AccountCode", "AccountRef"]

OWNER_CHARACTERS_MAX = 128
"""A PeerId has 52 characters, a UUID 36."""


class AccountCode(StrEnum):
    """What kind of account; the owner is a buyer's id, a provider's PeerId, or empty for ours."""

    PROCESSOR_PENDING = "processor_pending"
    """Paid by a buyer, and with the payment processor."""
    BUYER_CASH = "buyer_cash"
    PROVIDER_EARNED = "provider_earned"
    """Settled, and not yet paid out."""
    FEE = "fee"
    """The marketplace's share, with what rounding leaves over."""
    CLEARING_SETTLE = "clearing_settle"

    @property
    def no_overdraft(self) -> bool:
        """Whether debits, pending ones included, may never pass posted credits."""
        return self is not AccountCode.PROCESSOR_PENDING


@dataclass(frozen=True, slots=True, order=True)
class AccountRef:
    """One account. `owner`: a buyer's id, a provider's PeerId text, or "" for our own accounts."""

    code: AccountCode
    owner: str = ""

    def __post_init__(self) -> None:
        if len(self.owner) > OWNER_CHARACTERS_MAX:
            raise LedgerError(f"An account's owner has at most {OWNER_CHARACTERS_MAX} characters.")

    @property
    def name(self) -> str:
        """`code:owner`, the account's key in the database."""
        return f"{self.code.value}:{self.owner}"

    def __str__(self) -> str:
        return self.name
