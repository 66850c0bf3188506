"""A payout processor with a book of its own: keys for a day, and whatever goes wrong on request."""

from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from marketplace.payments.processor import (
    OutcomeUnknown,
    ProcessorBusy,
    ProcessorRefused,
    RecipientState,
    TransferRecord,
)

KEY_LIFE_S = 24 * 3600
COUNTRY = "DE"
"""Of everybody who does not matter for where he is paid."""


class Trouble(Enum):
    """What happens to one call."""

    LOST_BEFORE = auto()
    """No answer, and nothing was done."""
    LOST_AFTER = auto()
    """No answer, and it was done."""
    ERROR_KEPT = auto()
    """A 500 that the key replays: nothing was done, nor will be under this key."""
    LATE = auto()
    """No answer; the request is still on its way, and is done when `deliver` is called."""
    BUSY = auto()
    REFUSED = auto()
    DIES_BEFORE = auto()
    """Our own process dies before the call."""
    DIES_AFTER = auto()
    """Our own process dies after the call, before it knows the answer."""


class ProcessDied(BaseException):
    """Not an Exception: nothing of ours may handle it."""


@dataclass
class BookedProcessor:
    """The real interface; `transfers` is the truth that the marketplace's book must equal."""

    clock: object
    available: int = 10**9
    troubles: deque = field(default_factory=deque)
    transfers: list = field(default_factory=list)
    states: dict = field(default_factory=dict)
    keys: dict = field(default_factory=dict)
    calls: int = 0
    looks: int = 0
    created: int = 0
    refused_countries: set = field(default_factory=set)
    deaf: bool = False
    on_their_way: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    """(payout, attempt, when) of every request that was sent, whatever became of it."""
    name = "test"

    def create_recipient(self, account_id, email, country):
        self._answer()
        self.created += 1
        if country in self.refused_countries:
            raise ProcessorRefused("country_unsupported", f"{country} is not supported.")
        return f"acct_{account_id}" if country == COUNTRY else f"acct_{account_id}_{country}"

    def onboarding_url(self, recipient):
        self._answer()
        return f"https://processor.example/{recipient}"

    def recipient_state(self, recipient):
        self._answer()
        return self.states.get(recipient, RecipientState(recipient, True))

    def create_transfer(self, payout_id, amount_cents, recipient, *, attempt):
        self.calls += 1
        trouble = self.troubles.popleft() if self.troubles else None
        if trouble is Trouble.DIES_BEFORE:
            raise ProcessDied
        self.asked.append((payout_id, attempt, self.clock.now_s()))
        if trouble is Trouble.LOST_BEFORE:
            raise OutcomeUnknown("The connection was lost.")
        if trouble is Trouble.BUSY:
            raise ProcessorBusy("The same request is being worked on.")
        request = ((payout_id, attempt), trouble, amount_cents, recipient, payout_id)
        if trouble is Trouble.LATE:
            self.on_their_way.append(request)
            raise OutcomeUnknown("The connection was lost.")
        kept = self._once(*request)
        if trouble is Trouble.LOST_AFTER:
            raise OutcomeUnknown("The connection was lost.")
        if trouble is Trouble.DIES_AFTER:
            raise ProcessDied
        if isinstance(kept, Exception):
            raise kept
        return kept

    def find_transfers(self, payout_id):
        self._answer()
        self.looks += 1
        return [record for record in self.transfers if record.payout_id == payout_id]

    def available_cents(self):
        self._answer()
        return self.available

    def deliver(self):
        """Requests that were under way arrive; nobody waits for their answers any more."""
        while self.on_their_way:
            self._once(*self.on_their_way.pop())

    def reverse(self, payout_id, cents=None):
        """The operator takes a transfer back, in the processor's own pages."""
        self.transfers = [
            replace(record, reversed_cents=record.amount_cents if cents is None else cents)
            if record.payout_id == payout_id
            else record
            for record in self.transfers
        ]

    def _answer(self):
        if self.deaf:
            raise OutcomeUnknown("The processor does not answer.")

    def _once(self, key, trouble, amount_cents, recipient, payout_id):
        now_s = self.clock.now_s()
        self.keys = {k: v for k, v in self.keys.items() if now_s - v[0] < KEY_LIFE_S}
        if key not in self.keys:
            answer = self._do(trouble, amount_cents, recipient, payout_id, now_s)
            self.keys[key] = (now_s, answer)
        return self.keys[key][1]

    def _do(self, trouble, amount_cents, recipient, payout_id, now_s):
        if trouble is Trouble.ERROR_KEPT:
            return OutcomeUnknown("500")
        if trouble is Trouble.REFUSED:
            return ProcessorRefused("account_closed", "No.")
        if amount_cents > self.available:
            return ProcessorRefused("balance_insufficient", "Not enough.")
        self.available -= amount_cents
        made = TransferRecord(
            f"tr_{len(self.transfers)}", payout_id, recipient, amount_cents, 0, now_s
        )
        self.transfers.append(made)
        return made
