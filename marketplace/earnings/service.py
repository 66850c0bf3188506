"""What a provider has earned, where that money is, and why it is there."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from marketplace.earnings.repository import DAY_S, EarningsRepository, WorkSums
from marketplace.earnings.schemas import (
    BreakdownList,
    BreakdownSchema,
    EarningsBy,
    EarningsSchema,
    HeldSchema,
    MachineEarnings,
    ReleaseList,
    ReleaseSchema,
)
from marketplace.machines import service as machines
from marketplace.payouts.models import ReleaseRow
from marketplace.usage.periods import Period

__all__ = ["breakdown", "earnings", "releases"]

RELEASES_PAGE = 200


def earnings(session: Session, account_id: str) -> EarningsSchema:
    """The account's money by place, and its machines."""
    repository, book = EarningsRepository(session), Book(session)
    bound = machines.machines_of(session, account_id)
    names = [row.peer_id for row in bound]
    earned, unsettled = repository.earned(names), repository.unsettled(names)

    def balance(code: AccountCode) -> int:
        return book.balance(AccountRef(code, account_id)).posted_nanos

    listed = [
        MachineEarnings(
            peer_id=row.peer_id,
            name=row.name,
            earned_nanos=earned.get(row.peer_id, (0, 0))[0],
            waiting_nanos=earned.get(row.peer_id, (0, 0))[1],
            unsettled_nanos=unsettled.get(row.peer_id, 0),
        )
        for row in bound
    ]
    return EarningsSchema(
        account_id=account_id,
        earned_nanos=sum(machine.earned_nanos for machine in listed),
        unsettled_nanos=sum(machine.unsettled_nanos for machine in listed),
        waiting_nanos=sum(machine.waiting_nanos for machine in listed),
        held_nanos=balance(AccountCode.PROVIDER_HELD),
        payable_nanos=balance(AccountCode.PROVIDER_PAYABLE),
        in_transit_nanos=balance(AccountCode.PROVIDER_IN_TRANSIT),
        paid_nanos=repository.paid_nanos(account_id),
        machines=listed,
        held=[
            HeldSchema(reason=part.reason, nanos=part.nanos, parts=part.parts, until_s=part.until_s)
            for part in repository.held(account_id)
        ],
    )


def breakdown(session: Session, account_id: str, period: Period, by: EarningsBy) -> BreakdownList:
    """What the account's machines carried in sessions begun in the period, grouped."""
    names = [row.peer_id for row in machines.machines_of(session, account_id)]
    sums = EarningsRepository(session).work(names, period.start_s, period.end_s)
    groups: dict[str, list[WorkSums]] = {}
    for part in sums:
        groups.setdefault(_name(part, by), []).append(part)
    return BreakdownList(
        by=by,
        start=str(period.first),
        end=str(period.last),
        data=[_summed(name, groups[name]) for name in sorted(groups)],
        total=_summed("total", sums),
    )


def releases(session: Session, account_id: str, after: str | None) -> ReleaseList:
    """Day by day, what was released and what is held back for which reasons."""
    place = None
    if after is not None:
        period, _, machine = after.partition("-")
        place = (int(period), machine)
    rows: Sequence[ReleaseRow] = EarningsRepository(session).releases(
        account_id, after=place, limit=RELEASES_PAGE
    )
    last = rows[-1] if len(rows) == RELEASES_PAGE else None
    return ReleaseList(
        data=[_release(row) for row in rows],
        next=f"{last.period_s}-{last.machine}" if last else None,
    )


def _release(row: ReleaseRow) -> ReleaseSchema:
    return ReleaseSchema(
        machine=row.machine,
        period_s=row.period_s,
        credited_nanos=row.credited_nanos,
        payable_nanos=row.payable_nanos,
        held_nanos=row.held_nanos,
        reasons=[reason for reason in row.reasons.split(",") if reason],
        until_s=row.until_s,
        released_at_s=row.released_at_s,
    )


def _name(part: WorkSums, by: EarningsBy) -> str:
    if by == "day":
        return f"{datetime.fromtimestamp(part.day * DAY_S, UTC):%Y-%m-%d}"
    return part.model if by == "model" else part.machine


def _summed(name: str, parts: Iterable[WorkSums]) -> BreakdownSchema:
    parts = list(parts)
    return BreakdownSchema(
        group=name,
        sessions=sum(part.sessions for part in parts),
        settled_nanos=sum(part.settled_nanos for part in parts),
        unsettled_nanos=sum(part.unsettled_nanos for part in parts),
        token_layers=sum(part.token_layers for part in parts),
        bytes_carried=sum(part.bytes_carried for part in parts),
    )
