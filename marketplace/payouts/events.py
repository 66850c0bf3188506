"""What the processor's events do to payouts. They are told twice, late and in any order.

An event is a reason to look, never a fact about money: amounts are read from the processor's own
book by the job that looks. Only the bank's word on a recipient's money (`payout.paid`,
`payout.failed`) is taken from the event, for it moves no money of ours.
"""

from collections.abc import Mapping
from typing import Any

from ledger.database import Session
from marketplace.payouts.models import PayoutRow, RecipientRow
from marketplace.payouts.outbox import service as outbox
from marketplace.payouts.outbox.service import Topic
from marketplace.payouts.recipients import bank_word
from marketplace.payouts.repository import PayoutRepository, RecipientRepository
from marketplace.payouts.states import PayoutState, require_step
from protocol.lease import ID_BYTES

__all__ = ["on_processor_event"]

_AFTER_SENDING = (PayoutState.SUBMITTED, PayoutState.PAID, PayoutState.FAILED)
_CLOCKS_APART_S = 300
"""An event from further in our future than this is taken as of now."""


def on_processor_event(
    session: Session, kind: str, object_id: str, payload: Mapping[str, Any], *, now_s: int
) -> None:
    """Advance payouts by one event; what is not about a payout of ours does nothing.

    kind: the processor's word, such as `transfer.reversed`. object_id: the transfer, the payout at
    the bank or the recipient. payload: the event's object; of a bank's payout it names the
    recipient in `account`, and when in `created`.
    """
    if kind.startswith("transfer."):
        _on_transfer(session, kind, object_id, payload, now_s=now_s)
    elif kind in ("payout.paid", "payout.failed"):
        _on_bank(session, kind, payload, now_s=now_s)
    elif kind.startswith(("account.", "v2.core.account")):
        row = RecipientRepository(session).lock_by_name(object_id)
        if row is not None:
            subject = {"account": row.account_id}
            outbox.put(session, Topic.RECIPIENT, row.account_id, subject, now_s=now_s)


def _on_transfer(
    session: Session, kind: str, transfer_id: str, payload: Mapping[str, Any], *, now_s: int
) -> None:
    repository = PayoutRepository(session)
    row = repository.find_transfer(transfer_id)
    if row is not None and kind == "transfer.created":
        return  # no news: its id came from the processor itself
    if row is None and (payout_id := _payout_id_in(payload)):
        row = repository.get(payout_id)
    if row is not None:
        subject = row.payout_id.hex()
        outbox.put(session, Topic.LOOK, subject, {"payout": subject}, now_s=now_s)


def _on_bank(session: Session, kind: str, payload: Mapping[str, Any], *, now_s: int) -> None:
    name = payload.get("account") or payload.get("destination")
    recipient = (
        RecipientRepository(session).lock_by_name(name) if isinstance(name, str) and name else None
    )
    if recipient is None:
        return
    created = payload.get("created")
    at_s = created if type(created) is int and 0 < created < now_s + _CLOCKS_APART_S else now_s
    if kind == "payout.paid":
        recipient.bank_paid_at_s = max(recipient.bank_paid_at_s, at_s)
    else:
        recipient.bank_failed_at_s = max(recipient.bank_failed_at_s, at_s)
    RecipientRepository(session).save()
    for row in PayoutRepository(session).at_recipient(recipient.recipient, _AFTER_SENDING):
        _follow(session, row, recipient, now_s=now_s)


def _follow(session: Session, row: PayoutRow, recipient: RecipientRow, *, now_s: int) -> None:
    target = bank_word(row, recipient)
    # a refusal by the processor is `failed` too, and no bank has a word in it
    if target is None or target.value == row.state or row.transfer_id is None:
        return
    require_step(PayoutState(row.state), target)
    row.state, row.changed_at_s = target.value, now_s
    row.reason = "bank_failed" if target is PayoutState.FAILED else ""
    PayoutRepository(session).save()


def _payout_id_in(payload: Mapping[str, Any]) -> bytes | None:
    """The payout that a transfer names as its group; None if it is none of ours."""
    group = payload.get("transfer_group")
    if not isinstance(group, str) or len(group) != 2 * ID_BYTES:
        return None
    try:
        return bytes.fromhex(group)
    except ValueError:
        return None
