"""What two operators may do together, each with its parameters checked when it is asked for and
done in the transaction that decides it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session
from ledger.leaf import LANES_PER_HOLD_MAX
from ledger.rulings import Decision
from marketplace.accounts.repository import AccountRepository
from marketplace.disputes import service as disputes
from marketplace.errors import Malformed
from marketplace.fields import AMOUNT_NANOS_MAX, HexId, Schema, parse_hex
from marketplace.market import Market
from marketplace.payments.refunds import service as refunds
from marketplace.payments.schemas import RefundRequest
from marketplace.payouts import service as payouts
from marketplace.standing import service as standing
from protocol.lease import ID_BYTES
from protocol.money import NANOS_PER_USD

__all__ = ["ACTIONS", "Action", "Doing"]

GOODWILL_NANOS_MAX = 1000 * NANOS_PER_USD
"""What two people may give away at once."""
GOODWILL_CODE = "goodwill"


@dataclass(frozen=True, slots=True)
class Doing:
    """One approved action on its way: `ref` names it in the book."""

    market: Market
    session: Session
    subject: str
    reason: str
    ref: str
    by: tuple[str, str]
    """Who asked and who decided."""
    now_s: int


@dataclass(frozen=True, slots=True)
class Action:
    """`check` raises MarketError for a subject that cannot be; `run` does it."""

    parameters: type[Schema]
    check: Callable[[Session, str, Schema], None]
    run: Callable[[Doing, Schema], None]


class NoParameters(Schema):
    """Nothing beyond subject and reason."""


class UnfreezeParameters(Schema):
    """One reason, or all of them."""

    frozen_for: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class GoodwillParameters(Schema):
    """What the buyer is given."""

    amount_nanos: Annotated[int, Field(gt=0, le=GOODWILL_NANOS_MAX)]


class LinkParameters(Schema):
    """The subject is the provider; this is the buyer it is linked to."""

    buyer_account_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class RulingPart(Schema):
    """How one lease's parked money is divided."""

    lease_id: HexId
    to_provider_nanos: Annotated[int, Field(ge=0, le=AMOUNT_NANOS_MAX)]
    to_buyer_nanos: Annotated[int, Field(ge=0, le=AMOUNT_NANOS_MAX)]


class RulingParameters(Schema):
    """Every lease of the dispute."""

    decisions: Annotated[list[RulingPart], Field(min_length=1, max_length=LANES_PER_HOLD_MAX)]


class RefundParameters(Schema):
    """Part of a top-up back to the card it came from; the approval's id is the refund's."""

    topup_id: HexId
    amount_nanos: Annotated[int, Field(gt=0, le=AMOUNT_NANOS_MAX)]


def _check_account(session: Session, subject: str, _: Schema) -> None:
    if not AccountRepository(session).exists(subject):
        raise Malformed(f"There is no account '{subject[:40]}'.", hint="Give its account_id.")


def _freeze(doing: Doing, _: Schema) -> None:
    standing.freeze(doing.session, doing.subject, doing.reason, now_s=doing.now_s)


def _unfreeze(doing: Doing, parameters: Schema) -> None:
    assert isinstance(parameters, UnfreezeParameters)
    standing.unfreeze(doing.session, doing.subject, now_s=doing.now_s, reason=parameters.frozen_for)


def _verify(doing: Doing, _: Schema) -> None:
    standing.verify(doing.session, doing.subject, now_s=doing.now_s)


def _allow_link(doing: Doing, parameters: Schema) -> None:
    assert isinstance(parameters, LinkParameters)
    standing.allow_link(
        doing.session,
        doing.subject,
        parameters.buyer_account_id,
        approval_id=doing.ref,
        now_s=doing.now_s,
    )


def _goodwill(doing: Doing, parameters: Schema) -> None:
    assert isinstance(parameters, GoodwillParameters)
    Book(doing.session).transfer(
        AccountRef(AccountCode.GOODWILL),
        AccountRef(AccountCode.BUYER_CASH, doing.subject),
        parameters.amount_nanos,
        code=GOODWILL_CODE,
        ref=doing.ref,
        now_s=doing.now_s,
    )


def _check_id(_: Session, subject: str, __: Schema) -> None:
    parse_id(subject)


def parse_id(subject: str) -> bytes:
    """16 bytes in hex; raises Malformed."""
    try:
        return parse_hex(subject, ID_BYTES)
    except ValueError as error:
        raise Malformed(f"'{subject[:40]}' is no id: {error}.") from None


def _rule(doing: Doing, parameters: Schema) -> None:
    assert isinstance(parameters, RulingParameters)
    disputes.rule(
        doing.session,
        parse_id(doing.subject),
        [
            Decision(part.lease_id, part.to_provider_nanos, part.to_buyer_nanos)
            for part in parameters.decisions
        ],
        reason=doing.reason,
        by=" and ".join(doing.by),
        now_s=doing.now_s,
    )


def _cancel_payout(doing: Doing, _: Schema) -> None:
    payouts.cancel(doing.session, parse_id(doing.subject), "operator", now_s=doing.now_s)


def _resume_payout(doing: Doing, _: Schema) -> None:
    payouts.resume(doing.session, parse_id(doing.subject), now_s=doing.now_s)


def _refund(doing: Doing, parameters: Schema) -> None:
    assert isinstance(parameters, RefundParameters)
    wanted = RefundRequest(
        refund_id=bytes.fromhex(doing.ref),
        topup_id=parameters.topup_id,
        amount_nanos=parameters.amount_nanos,
    )
    refunds.request(
        doing.session,
        doing.subject,
        wanted,
        doing.market.processor,
        asked_by=" and ".join(doing.by),
        now_s=doing.now_s,
    )


ACTIONS: Mapping[str, Action] = {
    "freeze_account": Action(NoParameters, _check_account, _freeze),
    "unfreeze_account": Action(UnfreezeParameters, _check_account, _unfreeze),
    "verify_account": Action(NoParameters, _check_account, _verify),
    "allow_link": Action(LinkParameters, _check_account, _allow_link),
    "rule_dispute": Action(RulingParameters, _check_id, _rule),
    "cancel_payout": Action(NoParameters, _check_id, _cancel_payout),
    "resume_payout": Action(NoParameters, _check_id, _resume_payout),
    "refund": Action(RefundParameters, _check_account, _refund),
    "goodwill": Action(GoodwillParameters, _check_account, _goodwill),
}
"""By the name under which it is asked for."""
