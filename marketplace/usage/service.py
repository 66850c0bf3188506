"""What a buyer has used: by day, model or key, request by request, and month by month."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from ledger.database import Session
from marketplace.accounts.repository import AccountRepository
from marketplace.usage.errors import PeriodInvalid
from marketplace.usage.periods import Period, month_of, months_since
from marketplace.usage.repository import DAY_S, GroupSums, SessionSums, UsageRepository
from marketplace.usage.schemas import (
    GroupBy,
    InvoiceLine,
    InvoiceList,
    InvoiceSchema,
    InvoiceSummary,
    RequestList,
    RequestSchema,
    RequestStatus,
    UsageList,
    UsageSchema,
)

__all__ = ["csv_page", "invoice", "invoices", "requests", "usage"]

REQUESTS_PAGE = 100
EXPORT_PAGE = 1000
"""About 130 kB: what is in memory at once."""


def usage(session: Session, account_id: str, period: Period, by: GroupBy) -> UsageList:
    """Sums of the period's requests, grouped."""
    groups = UsageRepository(session, account_id).groups(period.start_s, period.end_s)
    named: dict[str, list[GroupSums]] = {}
    for group in groups:
        named.setdefault(_name(group, by), []).append(group)
    return UsageList(
        by=by,
        start=str(period.first),
        end=str(period.last),
        data=[_summed(name, named[name]) for name in sorted(named)],
        total=_summed("total", groups),
    )


def requests(session: Session, account_id: str, before: str | None) -> RequestList:
    """A page of requests, the newest first. Raises PeriodInvalid for a cursor that is none."""
    repository = UsageRepository(session, account_id)
    rows = repository.sessions(before=_cursor(before), limit=REQUESTS_PAGE + 1)
    page = rows[:REQUESTS_PAGE]
    last = page[-1] if len(rows) > REQUESTS_PAGE else None
    return RequestList(
        data=[_request(row) for row in page],
        next=f"{last.created_at_s}-{last.session_id.hex()}" if last else None,
    )


def csv_page(
    session: Session, account_id: str, period: Period, after: tuple[int, bytes] | None
) -> tuple[str, tuple[int, bytes] | None]:
    """The next rows of the period's requests as CSV, the newest first, the heading before the
    first; and where to go on, None at the end."""
    rows = UsageRepository(session, account_id).sessions(
        before=after, limit=EXPORT_PAGE, start_s=period.start_s, end_s=period.end_s
    )
    heading = [] if after else [list(RequestSchema.model_fields)]
    lines = [list(_request(row).model_dump(mode="json").values()) for row in rows]
    last = rows[-1] if len(rows) == EXPORT_PAGE else None
    return _csv([*heading, *lines]), (last.created_at_s, last.session_id) if last else None


def invoices(session: Session, account_id: str, *, now_s: int) -> InvoiceList:
    """Every month since the first request."""
    repository = UsageRepository(session, account_id)
    first_s = repository.first_at_s()
    if first_s is None:
        return InvoiceList(data=[])
    summaries = []
    for number in months_since(first_s, now_s):
        period = month_of(number)
        groups = repository.groups(period.start_s, period.end_s)
        summaries.append(
            InvoiceSummary(
                number=number,
                final=_is_final(period, groups, now_s),
                amount_nanos=sum(group.charged_nanos for group in groups),
                requests=sum(group.requests for group in groups),
            )
        )
    return InvoiceList(data=summaries)


def invoice(session: Session, account_id: str, number: str, *, now_s: int) -> InvoiceSchema:
    """One month by model. Raises PeriodInvalid."""
    period = month_of(number)
    groups = UsageRepository(session, account_id).groups(period.start_s, period.end_s)
    models = sorted({group.model for group in groups})
    lines = [_line(model, [g for g in groups if g.model == model]) for model in models]
    return InvoiceSchema(
        number=number,
        account_id=account_id,
        name=AccountRepository(session).get(account_id).name,
        final=_is_final(period, groups, now_s),
        lines=lines,
        amount_nanos=sum(line.amount_nanos for line in lines),
        held_nanos=sum(group.held_nanos for group in groups),
    )


def _is_final(period: Period, groups: Sequence[GroupSums], now_s: int) -> bool:
    return now_s >= period.end_s and not any(group.held_nanos for group in groups)


def _line(model: str, groups: Sequence[GroupSums]) -> InvoiceLine:
    return InvoiceLine(
        model=model,
        requests=sum(group.requests for group in groups),
        prompt_tokens=sum(group.prompt_tokens for group in groups),
        output_tokens=sum(group.output_tokens for group in groups),
        amount_nanos=sum(group.charged_nanos for group in groups),
    )


def _name(group: GroupSums, by: GroupBy) -> str:
    if by == "day":
        return f"{datetime.fromtimestamp(group.day * DAY_S, UTC):%Y-%m-%d}"
    return group.model if by == "model" else group.key_id


def _summed(name: str, groups: Iterable[GroupSums]) -> UsageSchema:
    groups = list(groups)
    return UsageSchema(
        group=name,
        requests=sum(group.requests for group in groups),
        prompt_tokens=sum(group.prompt_tokens for group in groups),
        output_tokens=sum(group.output_tokens for group in groups),
        bytes_carried=sum(group.bytes_carried for group in groups),
        charged_nanos=sum(group.charged_nanos for group in groups),
        held_nanos=sum(group.held_nanos for group in groups),
    )


def _request(row: SessionSums) -> RequestSchema:
    status: RequestStatus
    if row.open_holds:
        status = "open" if row.closed_at_s is None else "closed"
    else:
        status = "settled" if row.charged_nanos else "released"
    return RequestSchema(
        session_id=row.session_id,
        created_at_s=row.created_at_s,
        closed_at_s=row.closed_at_s,
        model=row.model,
        key_id=row.key_id,
        status=status,
        prompt_tokens=row.prompt_tokens,
        output_tokens=row.output_tokens,
        charged_nanos=row.charged_nanos,
        held_nanos=row.held_nanos,
    )


def _cursor(text: str | None) -> tuple[int, bytes] | None:
    if text is None:
        return None
    created, _, session_id = text.partition("-")
    try:
        return int(created), bytes.fromhex(session_id)
    except ValueError:
        raise PeriodInvalid("The cursor is none of ours.", hint="Use `next` as it came.") from None


def _csv(rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()
