"""What can go wrong with money, receipts and the log.

PieceworkError
└─ LedgerError
   ├─ Unbalanced                  a movement does not sum to zero, or is no whole amount
   ├─ InsufficientFunds           the account has less than is asked for
   ├─ HoldUnknown                 no hold has this id
   ├─ HoldResolved                the hold was posted or released before
   ├─ TransferConflict            this (code, ref) was used for another movement
   ├─ DisputeUnknown              no dispute has this id
   ├─ DisputeRuled                the dispute was ruled on before, and otherwise
   ├─ TableBusy                   others use a table that is to be changed; try again
   ├─ ReceiptRejected             one receipt cannot be accepted; the others of its batch may be
   ├─ ForkDetected                the log contradicts a checkpoint it signed: stop the process
   └─ AuditFailed                 a proof or a signed note does not verify
"""

from protocol.errors import PieceworkError

__all__ = [
    "AuditFailed",
    "DisputeRuled",
    "DisputeUnknown",
    "ForkDetected",
    "HoldResolved",
    "HoldUnknown",
    "InsufficientFunds",
    "LedgerError",
    "ReceiptRejected",
    "TableBusy",
    "TransferConflict",
    "Unbalanced",
]


class LedgerError(PieceworkError):
    """The ledger refused; nothing of the refused movement was written."""


class Unbalanced(LedgerError):
    """Debits and credits differ, or an amount is not a whole positive number: a bug of ours."""


class InsufficientFunds(LedgerError):
    """The account's available balance is below what the movement needs. Amounts in nanos."""

    def __init__(self, account: str, needed_nanos: int, available_nanos: int) -> None:
        super().__init__(
            f"{account} has {available_nanos} nanos available; {needed_nanos} are needed.",
            hint="Add funds, or ask for less.",
        )
        self.account = account
        self.needed_nanos = needed_nanos
        self.available_nanos = available_nanos


class HoldUnknown(LedgerError):
    """No hold has this id."""

    def __init__(self, hold_id: bytes) -> None:
        super().__init__(f"There is no hold {hold_id.hex()}.")
        self.hold_id = hold_id


class HoldResolved(LedgerError):
    """The hold was already posted or released; a hold resolves at most once."""

    def __init__(self, hold_id: bytes) -> None:
        super().__init__(f"The hold {hold_id.hex()} is already posted or released.")
        self.hold_id = hold_id


class TransferConflict(LedgerError):
    """The same (code, ref) was used before for a movement with other accounts or amount."""

    def __init__(self, code: str, ref: str) -> None:
        super().__init__(
            f"The transfer ({code}, {ref}) exists with other content.",
            hint="A ref names one movement for ever; use a new one for a new movement.",
        )
        self.code = code
        self.ref = ref


class DisputeUnknown(LedgerError):
    """No dispute has this id."""

    def __init__(self, dispute_id: bytes) -> None:
        super().__init__(f"There is no dispute {dispute_id.hex()}.")
        self.dispute_id = dispute_id


class DisputeRuled(LedgerError):
    """The dispute was ruled on before, and otherwise; its money has moved."""

    def __init__(self, dispute_id: bytes) -> None:
        super().__init__(
            f"The dispute {dispute_id.hex()} has been ruled on, and otherwise.",
            hint="A ruling stands; what it got wrong is mended by a gift of the operator's.",
        )
        self.dispute_id = dispute_id


class ReceiptRejected(LedgerError):
    """One receipt cannot be accepted, and why."""

    def __init__(self, lease_id: bytes, reason: str) -> None:
        super().__init__(f"The receipt under lease {lease_id.hex()} is rejected: {reason}")
        self.lease_id = lease_id
        self.reason = reason


class TableBusy(LedgerError):
    """A table could not be had alone within a moment; nothing was changed."""

    def __init__(self, table: str) -> None:
        super().__init__(
            f"The table {table} is in use and gets no new part now.",
            hint="Try again: long reads of it and many writers keep it busy.",
        )
        self.table = table


class ForkDetected(LedgerError):
    """Two signed checkpoints, or a checkpoint and the log, contradict one another."""


class AuditFailed(LedgerError):
    """A proof, a note or a signature of the log does not verify."""
