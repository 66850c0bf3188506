"""What a key may spend: taken when money is held for it, given back or spent when the hold settles.

Exact at any concurrency: a budget grows by one conditional update in the transaction of the hold,
so spent + reserved never passes the limit, however many requests come at once. A charge counts in
the period in which its hold was made.

Whoever needs both locks the budget before any of its holds, so that no two wait for each other.
"""

from collections.abc import Iterable

from ledger.database import Session
from marketplace.keys.errors import KeyBudgetSpent, KeyBusy
from marketplace.keys.models import BudgetRow, KeyHoldRow
from marketplace.keys.periods import Reset, next_start_s, period_start_s
from marketplace.keys.repository import BudgetRepository, KeyRepository

__all__ = ["finish", "reserve", "settle", "settle_ready"]

SETTLED_AT_ONCE_MAX = 1000


def reserve(
    session: Session,
    key_id: str | None,
    hold_id: bytes,
    amount_nanos: int,
    *,
    now_s: int,
    opens: bool = True,
) -> None:
    """The hold is of `amount_nanos` altogether, and this key's: take what is new of it.

    In the transaction that made the hold, or made it larger; the same again takes nothing. `opens`:
    it is a session's first and counts as an open one. None for a person, whom no key limits.
    Raises KeyBudgetSpent or KeyBusy; then the transaction must be given up.
    """
    if key_id is None:
        return
    repository = BudgetRepository(session)
    held = repository.hold(hold_id)
    if held is not None:
        _extend(session, held, amount_nanos, now_s)
        return
    key = KeyRepository(session).find(key_id)
    budget_id = None if key is None else key.budget_id
    start_s = 0
    if budget_id is not None:
        start_s = _take(session, budget_id, amount_nanos, now_s, opens=opens)
    repository.add_hold(
        KeyHoldRow(
            hold_id=hold_id,
            key_id=key_id,
            budget_id=budget_id,
            period_start_s=start_s,
            amount_nanos=amount_nanos,
            is_open=opens and budget_id is not None,
            created_at_s=now_s,
        )
    )


def finish(session: Session, hold_ids: Iterable[bytes]) -> None:
    """The session of these holds is over: it counts no more among its key's open ones.

    Again is no error.
    """
    repository = BudgetRepository(session)
    for hold_id in hold_ids:
        held = repository.hold(hold_id)
        if held is not None and held.budget_id is not None:
            repository.lock(held.budget_id)
            if repository.close_hold(hold_id):
                repository.close_session(held.budget_id)


def settle(session: Session, hold_id: bytes, charged_nanos: int) -> bool:
    """The hold came to this: it is spent and the rest is free. False the second time."""
    finish(session, [hold_id])
    repository = BudgetRepository(session)
    held = repository.settle_hold(hold_id, charged_nanos)
    if held is None:
        return False
    if held.budget_id is not None:
        repository.settle(held.budget_id, held.period_start_s, held.amount_nanos, charged_nanos)
    return True


def settle_ready(session: Session, budget_id: str | None = None) -> int:
    """Settle keys' holds that the ledger has settled, a thousand at once; gives how many.

    `budget_id`: only those of this budget.
    """
    ready = BudgetRepository(session).settled_in_ledger(SETTLED_AT_ONCE_MAX, budget_id)
    return sum(settle(session, hold_id, charged_nanos) for hold_id, charged_nanos in ready)


def _extend(session: Session, held: KeyHoldRow, amount_nanos: int, now_s: int) -> None:
    more_nanos = amount_nanos - held.amount_nanos
    if more_nanos <= 0:
        return
    if held.budget_id is not None:
        held.period_start_s = _take(
            session,
            held.budget_id,
            more_nanos,
            now_s,
            opens=False,
            moved=(held.period_start_s, held.amount_nanos),
        )
    held.amount_nanos = amount_nanos
    BudgetRepository(session).save(held)


def _take(
    session: Session,
    budget_id: str,
    amount_nanos: int,
    now_s: int,
    *,
    opens: bool,
    moved: tuple[int, int] | None = None,
) -> int:
    """Take an amount of a budget; gives the start of the period that it is taken from.

    `moved`: an earlier part of the same hold, (period, nanos); where a new period has begun
    meanwhile the whole hold counts in that, for a hold is of one period.
    """
    repository = BudgetRepository(session)
    budget = repository.lock(budget_id)
    start_s = period_start_s(Reset(budget.reset), now_s)
    if start_s > budget.period_start_s:
        repository.begin_period(budget_id, start_s)
    current_s = max(start_s, budget.period_start_s)
    if moved is not None and moved[0] != current_s:
        amount_nanos += moved[1]
    taken = repository.take(budget_id, amount_nanos, opens=opens)
    if not taken and settle_ready(session, budget_id):
        # what is settled already and not yet given back must refuse nobody
        taken = repository.take(budget_id, amount_nanos, opens=opens)
    if not taken:
        raise _refusal(repository.lock(budget_id), amount_nanos, now_s)
    return current_s


def _refusal(budget: BudgetRow, needed_nanos: int, now_s: int) -> KeyBudgetSpent | KeyBusy:
    """Which of its limits it was."""
    if budget.limit_nanos is not None:
        free_nanos = budget.limit_nanos - budget.spent_nanos - budget.reserved_nanos
        if needed_nanos > free_nanos:
            resets_at_s = next_start_s(Reset(budget.reset), now_s)
            return KeyBudgetSpent(needed_nanos, max(free_nanos, 0), resets_at_s)
    return KeyBusy(budget.parallel_max or 0)
