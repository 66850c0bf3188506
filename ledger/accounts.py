"""The chart of accounts: every place money can be, and which of them may not go below zero.

Amounts are nanos. A balance is credits minus debits: what we owe (buyers, providers) and what we
have earned is positive, what a processor owes us is negative, and so are expenses. A clearing
account is passed through inside one SQL transaction and returns to zero. A code comes with what
first posts to it.
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
    PROCESSOR_AVAILABLE = "processor_available"
    """With the payment processor, and free to be paid out."""
    BANK = "bank"
    """What the operator has drawn from the processor."""
    BUYER_CASH = "buyer_cash"
    PROVIDER_EARNED = "provider_earned"
    """Settled, under the PeerId of the machine that earned it, and not yet released."""
    PROVIDER_HELD = "provider_held"
    """A provider's reserve, under its account: released by age, or forfeited for a proven fault."""
    PROVIDER_PAYABLE = "provider_payable"
    """Released to a provider's account, waiting for its payout."""
    PROVIDER_IN_TRANSIT = "provider_in_transit"
    """In a payout whose outcome is not yet known."""
    DISPUTED = "disputed"
    """Earned under receipts that contradict one another: nobody's until it is ruled on."""
    FEE = "fee"
    """The marketplace's share, with what rounding leaves over."""
    CLEARING_SETTLE = "clearing_settle"
    PROCESSOR_FEES = "processor_fees"
    """What the payment processor keeps: an expense."""
    CHARGEBACK_LOSS = "chargeback_loss"
    """Paid back to a card holder beyond what the buyer had left: an expense."""
    GOODWILL = "goodwill"
    """Given by the operator, by two people: an expense."""

    @property
    def no_overdraft(self) -> bool:
        """Whether debits, pending ones included, may never pass posted credits."""
        return self not in _MAY_GO_BELOW

    @property
    def is_liability(self) -> bool:
        """Whether its balance is owed to a buyer or a provider: what the balance tree proves."""
        return self in _LIABILITIES


_MAY_GO_BELOW = frozenset(
    {
        AccountCode.PROCESSOR_PENDING,
        AccountCode.PROCESSOR_AVAILABLE,
        AccountCode.BANK,
        AccountCode.PROCESSOR_FEES,
        AccountCode.CHARGEBACK_LOSS,
        AccountCode.GOODWILL,
    }
)
_LIABILITIES = frozenset(
    {
        AccountCode.BUYER_CASH,
        AccountCode.PROVIDER_EARNED,
        AccountCode.PROVIDER_HELD,
        AccountCode.PROVIDER_PAYABLE,
        AccountCode.PROVIDER_IN_TRANSIT,
        AccountCode.DISPUTED,
    }
)


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
