"""Making, changing, replacing, listing and revoking API keys."""

from dataclasses import dataclass

from ledger.database import Session
from marketplace.accounts.repository import AccountRepository
from marketplace.auth import NewKey, Scope, make_key
from marketplace.errors import Conflict, KeyUnknown
from marketplace.keys.models import BudgetRow, KeyRow
from marketplace.keys.periods import Reset, next_start_s, period_start_s
from marketplace.keys.repository import BudgetRepository, KeyRepository
from marketplace.keys.schemas import KeyChange, KeyList, KeySchema

__all__ = ["KeyLimits", "change", "create", "listing", "revoke", "rotate"]

KEYS_MAX = 100
"""Keys an account may have, revoked ones included: bounds the listing."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What bounds a key besides its account's balance; None: nothing does."""

    expires_at_s: int | None = None
    spend_limit_nanos: int | None = None
    spend_reset: Reset = Reset.NEVER
    requests_per_minute_max: int | None = None
    parallel_max: int | None = None
    """Sessions open at once."""

    @property
    def needs_budget(self) -> bool:
        return self.spend_limit_nanos is not None or self.parallel_max is not None


NO_LIMITS = KeyLimits()


def create(
    session: Session,
    account_id: str,
    name: str,
    scopes: frozenset[Scope],
    *,
    now_s: int,
    limits: KeyLimits = NO_LIMITS,
) -> NewKey:
    """A new key of the account; raises Conflict above KEYS_MAX."""
    key = make_key()
    row = KeyRow(
        key_id=key.key_id,
        account_id=account_id,
        name=name,
        scopes=",".join(sorted(scopes)),
        secret_hash=key.secret_hash,
        created_at_s=now_s,
        expires_at_s=limits.expires_at_s,
        requests_per_minute_max=limits.requests_per_minute_max,
    )
    if limits.needs_budget:
        row.budget_id = _begin_budget(session, key.key_id, limits)
    _add(session, row)
    return key


def rotate(
    session: Session, account_id: str, key_id: str, *, overlap_s: int, now_s: int
) -> tuple[NewKey, KeyRow]:
    """A key in the place of another, which is good for a while longer; both share one budget.

    Raises KeyUnknown, or Conflict for a key that is over.
    """
    old = _own(session, account_id, key_id)
    if old.revoked_at_s is not None or (old.expires_at_s or now_s + 1) <= now_s:
        raise Conflict("This key is over.", hint="Make a new one with POST /v1/keys.")
    key = make_key()
    row = KeyRow(
        key_id=key.key_id,
        account_id=account_id,
        name=old.name,
        scopes=old.scopes,
        secret_hash=key.secret_hash,
        created_at_s=now_s,
        expires_at_s=old.expires_at_s,
        requests_per_minute_max=old.requests_per_minute_max,
        budget_id=old.budget_id,
    )
    _add(session, row)
    ends_at_s = now_s + overlap_s
    old.expires_at_s = ends_at_s if old.expires_at_s is None else min(old.expires_at_s, ends_at_s)
    KeyRepository(session).save(old)
    return key, row


def change(session: Session, account_id: str, key_id: str, wanted: KeyChange) -> None:
    """Another name, end or limit; what the change does not name stays. Raises KeyUnknown.

    A lower limit takes nothing back: what is spent and reserved above it stays so.
    """
    row = _own(session, account_id, key_id)
    given = wanted.model_fields_set
    for name in ("name", "expires_at_s", "requests_per_minute_max"):
        if name in given:
            setattr(row, name, getattr(wanted, name))
    if given & {"spend_limit_nanos", "spend_reset", "parallel_max"}:
        _change_budget(session, row, wanted)
    KeyRepository(session).save(row)


def listing(session: Session, account_id: str, *, now_s: int) -> KeyList:
    """Every key of the account, without secrets."""
    found = KeyRepository(session).of_account_with_budgets(account_id)
    return KeyList(data=[_schema(row, budget, now_s) for row, budget in found])


def revoke(session: Session, account_id: str, key_id: str, *, now_s: int) -> None:
    """End a key; raises KeyUnknown where the account has no such key."""
    if not KeyRepository(session).revoke(account_id, key_id, now_s):
        raise KeyUnknown(f"This account has no key '{key_id[:16]}'.")


def _add(session: Session, row: KeyRow) -> None:
    repository = KeyRepository(session)
    AccountRepository(session).lock(row.account_id)
    if len(repository.of_account(row.account_id)) >= KEYS_MAX:
        raise Conflict(f"An account has at most {KEYS_MAX} keys.", hint="Use one of them.")
    repository.add(row)


def _own(session: Session, account_id: str, key_id: str) -> KeyRow:
    row = KeyRepository(session).own(account_id, key_id)
    if row is None:
        raise KeyUnknown(f"This account has no key '{key_id[:16]}'.")
    return row


def _begin_budget(session: Session, key_id: str, limits: KeyLimits) -> str:
    row = BudgetRow(
        budget_id=key_id,
        limit_nanos=limits.spend_limit_nanos,
        reset=limits.spend_reset,
        parallel_max=limits.parallel_max,
    )
    BudgetRepository(session).add(row)
    return row.budget_id


def _change_budget(session: Session, row: KeyRow, wanted: KeyChange) -> None:
    """A budget that was once begun stays, so that what runs is settled in it."""
    repository = BudgetRepository(session)
    if row.budget_id is None:
        row.budget_id = _begin_budget(session, row.key_id, NO_LIMITS)
    budget = repository.lock(row.budget_id)
    given = wanted.model_fields_set
    if "spend_limit_nanos" in given:
        budget.limit_nanos = wanted.spend_limit_nanos
    if "spend_reset" in given:
        budget.reset = Reset(wanted.spend_reset)
    if "parallel_max" in given:
        budget.parallel_max = wanted.parallel_max
    repository.add(budget)


def _schema(row: KeyRow, budget: BudgetRow | None, now_s: int) -> KeySchema:
    reset = Reset.NEVER if budget is None else Reset(budget.reset)
    # a period that is over is only begun anew by the next hold
    is_current = budget is not None and period_start_s(reset, now_s) <= budget.period_start_s
    return KeySchema(
        key_id=row.key_id,
        name=row.name,
        scopes=row.scopes.split(","),
        created_at_s=row.created_at_s,
        last_used_at_s=row.last_used_at_s,
        revoked_at_s=row.revoked_at_s,
        expires_at_s=row.expires_at_s,
        requests_per_minute_max=row.requests_per_minute_max,
        spend_limit_nanos=budget.limit_nanos if budget else None,
        spend_reset=reset.value,
        spent_nanos=budget.spent_nanos if budget and is_current else 0,
        reserved_nanos=budget.reserved_nanos if budget and is_current else 0,
        resets_at_s=next_start_s(reset, now_s),
        parallel_max=budget.parallel_max if budget else None,
        open_sessions=budget.open_sessions if budget else 0,
    )
