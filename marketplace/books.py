"""Every invariant of the money, as one function: run by tests, by `piecework-market check`, by an
operator's page, and when a marketplace starts.

I1-I8 and I12 are the ledger's; I9, I10 and I14 the log's; I11 belongs to payouts, I13 to payments.
Rules without a number are of single rooms: budgets, quotes, offers, and `rows`, that each row of a
table which has digests is what its digest says (`ledger/digested.py`).
The quick ones are SQL over sums; the thorough ones read every row and verify every signature.
"""

from collections.abc import Sequence

from ledger import integrity, invariants
from ledger.checkpoint import origin_of
from ledger.database import Session
from ledger.invariants import Violation
from ledger.log_check import check_log
from marketplace.keys import books as keys
from marketplace.market import Market
from marketplace.offers import books as offers
from marketplace.payments import books as payments
from marketplace.payouts import books as payouts
from marketplace.quotes import books as quotes

__all__ = ["PROCESSOR_RULE", "check_books", "check_sums"]

PROCESSOR_RULE = "I13"
"""That the processor's balance is ours: for people to look at, and no reason to stop selling."""


def check_sums(session: Session) -> Sequence[Violation]:
    """What sums can show: I1-I8, I11-I13. Seconds for a book of a million receipts."""
    return [
        *invariants.check(session),
        *payouts.check(session),
        *payments.check(session),
        *keys.check(session),
        *quotes.check(session),
    ]


def check_books(session: Session, market: Market, *, processes: int = 1) -> Sequence[Violation]:
    """Everything: each row against itself, the whole log replayed, every signature.

    processes: how many verify signatures, which is most of the time.
    """
    key = market.key.peer_id
    origin = origin_of(market.config.network)
    return [
        *check_sums(session),
        *offers.check(session),
        *integrity.check(session, key),
        *check_log(session, key, origin, processes=processes),
    ]
