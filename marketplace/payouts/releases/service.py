"""Releasing earnings: a machine's day at a time, once, with the reasons for what stays held.

Age is counted from when the credits were settled. Earnings of a machine that belongs to no account
stay where they are; so do those of a frozen account until it is unfrozen.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.payouts.models import HeldRow, ReleaseRow
from marketplace.payouts.releases.repository import Credit, ReleaseRepository
from marketplace.payouts.terms import RULING_WINDOW_S, Release, Revenue, delay_s, split
from marketplace.standing import service as standing
from marketplace.standing.tiers import DAY_S
from protocol.money import Nanos

__all__ = ["AccountOf", "give_back_due", "held_of", "release_machine", "releases_of"]

AccountOf = Callable[[Session, str], str | None]
"""The account that a machine (PeerId text) earns for, None where nobody has bound it."""

CLOSED_AFTER_S = 3600
"""A day is over an hour after its end: no settlement that began in it is still to be committed."""
PERIODS_MAX = 62
"""Days of one machine in one transaction; the rest is the next turn's."""


def release_machine(session: Session, machine: str, account_of: AccountOf, *, now_s: int) -> int:
    """Release every day of the machine that is old enough; gives how many. Raises no refusal."""
    account_id = account_of(session, machine)
    if account_id is None or standing.is_frozen(session, account_id):
        return 0
    book, releases = Book(session), ReleaseRepository(session)
    # the lock that makes a day of a machine one worker's
    book.lock((_earned(machine), _held(account_id), _payable(account_id)))
    wait_s = max(delay_s(standing.tier(session, account_id, now_s=now_s)), CLOSED_AFTER_S)
    until_s = (now_s - wait_s) // DAY_S * DAY_S
    earned = releases.credits(machine, releases.released_until_s(machine), until_s)
    if not earned:
        return 0
    buyers = _Buyers(session, account_id, now_s)
    first_s = releases.first_period_s(account_id)
    done = 0
    for period_s, of_period in groupby(earned, key=lambda credit: credit.period_s):
        first_s = period_s if first_s is None else first_s
        revenues = [buyers.revenue(credit) for credit in of_period]
        release = split(
            revenues,
            linked=buyers.linked,
            served_s=period_s - first_s,
            period_end_s=period_s + DAY_S,
            now_s=now_s,
            amount_nanos=book.balance(_earned(machine)).available_nanos,
        )
        credited = sum(revenue.amount_nanos for revenue in revenues)
        _write(session, machine, period_s, account_id, credited, release, now_s=now_s)
        done += 1
        if done >= PERIODS_MAX:
            break
    return done


def give_back_due(session: Session, *, now_s: int, limit: int) -> int:
    """Make payable what need not be held any longer; gives how many parts."""
    releases = ReleaseRepository(session)
    parts = releases.due(now_s, now_s - RULING_WINDOW_S, limit)
    if not parts:
        return 0
    book = Book(session)
    accounts = {part.account_id for part in parts}
    book.lock([place(account) for account in accounts for place in (_held, _payable)])
    for part in parts:
        held = _held(part.account_id)
        amount = min(part.amount_nanos, book.balance(held).available_nanos)
        if amount:
            book.transfer(
                held,
                _payable(part.account_id),
                amount,
                code="held_release",
                ref=f"{part.machine}:{part.period_s}:{part.reason}:{part.buyer}",
                now_s=now_s,
            )
        part.given_back_at_s, part.given_back_nanos = now_s, amount
    releases.save()
    return len(parts)


def releases_of(
    session: Session, account_id: str, *, since_s: int, limit: int
) -> Sequence[ReleaseRow]:
    """What was released to the account from periods since then, the newest first."""
    return ReleaseRepository(session).of_account(account_id, since_s=since_s, limit=limit)


def held_of(session: Session, account_id: str, *, limit: int) -> Sequence[HeldRow]:
    """What of the account's earnings is held now, why and until when; the soonest due first."""
    return ReleaseRepository(session).held_of(account_id, limit=limit)


class _Buyers:
    """The standing of a provider's buyers, each asked for once."""

    def __init__(self, session: Session, account_id: str, now_s: int) -> None:
        self._session, self._now_s = session, now_s
        self._known: dict[str, Revenue] = {}
        self.linked = standing.unpayable_buyers(session, account_id)

    def revenue(self, credit: Credit) -> Revenue:
        if credit.buyer not in self._known:
            self._known[credit.buyer] = self._standing(credit.buyer)
        known = self._known[credit.buyer]
        return Revenue(credit.buyer, credit.amount_nanos, known.tier, known.verified)

    def _standing(self, buyer: str) -> Revenue:
        if not buyer:
            # a ruling has looked at this money already
            return Revenue(buyer, 0)
        tier = standing.tier(self._session, buyer, now_s=self._now_s)
        unverified = standing.is_unverified(self._session, buyer, now_s=self._now_s)
        return Revenue(buyer, 0, tier, not unverified)


def _write(
    session: Session,
    machine: str,
    period_s: int,
    account_id: str,
    credited: Nanos,
    release: Release,
    *,
    now_s: int,
) -> None:
    held_nanos = release.amount_nanos - release.payable_nanos
    reasons = sorted({part.reason.value for part in release.held})
    row = ReleaseRow(
        machine=machine,
        period_s=period_s,
        account_id=account_id,
        credited_nanos=credited,
        amount_nanos=release.amount_nanos,
        payable_nanos=release.payable_nanos,
        held_nanos=held_nanos,
        reasons=",".join(reasons),
        until_s=max((part.until_s for part in release.held), default=None),
        released_at_s=now_s,
    )
    held = [
        HeldRow(
            machine=machine,
            period_s=period_s,
            reason=part.reason.value,
            buyer=part.buyer,
            account_id=account_id,
            amount_nanos=part.amount_nanos,
            until_s=part.until_s,
        )
        for part in release.held
    ]
    ReleaseRepository(session).add(row, held)
    book, ref = Book(session), f"{machine}:{period_s}"
    for place, amount, code in (
        (_payable(account_id), release.payable_nanos, "release"),
        (_held(account_id), held_nanos, "hold_back"),
    ):
        if amount:
            book.transfer(_earned(machine), place, amount, code=code, ref=ref, now_s=now_s)


def _earned(machine: str) -> AccountRef:
    return AccountRef(AccountCode.PROVIDER_EARNED, machine)


def _held(account_id: str) -> AccountRef:
    return AccountRef(AccountCode.PROVIDER_HELD, account_id)


def _payable(account_id: str) -> AccountRef:
    return AccountRef(AccountCode.PROVIDER_PAYABLE, account_id)
