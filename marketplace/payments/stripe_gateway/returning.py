"""Money back through Stripe, what changes our balance there, and what Stripe tells by webhook."""

import json
from collections.abc import Iterator

import stripe

from marketplace.payments.processor import EventUnverified, OutcomeUnknown
from marketplace.payments.records import (
    ChargebackRecord,
    ProcessorEvent,
    ProcessorTransaction,
    RefundRecord,
)
from marketplace.payments.stripe_gateway.client import READING, StripeClient, keyed
from marketplace.payments.stripe_gateway.errors import talking
from marketplace.payments.stripe_gateway.reading import (
    REFUND_KEY,
    TOPUP_KEY,
    chargeback_of,
    refund_of,
    subject_in,
)

__all__ = ["StripeReturning"]

PAGE = 100
PAGES_MAX = 2000
"""Of balance transactions in one walk: 200 000, more than a week of a large pool."""
TOLERANCE_S = 300
"""How old a webhook's signature may be, as Stripe advises: an older one is a recording."""
EVENT_ID_CHARACTERS_MAX = 255


class StripeReturning:
    """The half of `Processor` that gives back and tells. `secret`: signs the webhooks."""

    def __init__(self, client: StripeClient, secret: str) -> None:
        self._client = client
        self._secret = secret

    def create_refund(self, refund_id: bytes, payment_id: str, amount_cents: int) -> RefundRecord:
        with talking("refund a payment"):
            made = self._client.v1.refunds.create(
                {
                    "payment_intent": payment_id,
                    "amount": amount_cents,
                    "reason": "requested_by_customer",
                    "metadata": {REFUND_KEY: refund_id.hex()},
                },
                keyed(f"refund-{refund_id.hex()}"),
            )
            return refund_of(made)

    def find_refund(self, processor_id: str) -> RefundRecord:
        with talking("look at a refund"):
            return refund_of(self._client.v1.refunds.retrieve(processor_id, {}, READING))

    def find_refunds(self, payment_id: str) -> list[RefundRecord]:
        with talking("look for refunds"):
            found = self._client.v1.refunds.list(
                {"payment_intent": payment_id, "limit": PAGE}, READING
            )
            return [refund_of(refund) for refund in found.data]

    def find_chargeback(self, dispute_id: str) -> ChargebackRecord:
        with talking("look at a dispute"):
            return chargeback_of(self._client.v1.disputes.retrieve(dispute_id, {}, READING))

    def transactions(self, since_s: int) -> Iterator[ProcessorTransaction]:
        """Page by page. Raises OutcomeUnknown past PAGES_MAX, for half a walk proves nothing."""
        after = ""
        for _ in range(PAGES_MAX):
            with talking("walk the balance transactions"):
                page = self._client.v1.balance_transactions.list(
                    {
                        "created": {"gte": since_s},
                        "limit": PAGE,
                        "expand": ["data.source"],
                        **({"starting_after": after} if after else {}),
                    },
                    READING,
                )
                rows = [self._row(transaction) for transaction in page.data]
            yield from rows
            if not page.has_more or not rows:
                return
            after = rows[-1].transaction_id
        raise OutcomeUnknown(f"Stripe has more than {PAGES_MAX} pages of balance transactions.")

    def balance_cents(self) -> tuple[int, int]:
        with talking("look at the balance"):
            found = self._client.v1.balance.retrieve({}, READING)
            pending = sum(part.amount for part in found.pending if part.currency == "usd")
            return pending, sum(p.amount for p in found.available if p.currency == "usd")

    def read_event(self, payload: bytes, signature: str, *, now_s: int) -> ProcessorEvent:
        """The client checks the signature, we its age, by the marketplace's clock."""
        try:
            # no tolerance here: the client would measure it by the machine's own clock
            stripe.WebhookSignature.verify_header(
                payload.decode(), signature, self._secret, tolerance=None
            )
            signed_at_s = _signed_at_s(signature)
        except (stripe.SignatureVerificationError, ValueError) as error:
            raise EventUnverified("The event is not signed by Stripe.") from error
        if not self._secret or abs(now_s - signed_at_s) > TOLERANCE_S:
            raise EventUnverified("The event's signature is too old.")
        return _event(payload)

    def _row(self, transaction: stripe.BalanceTransaction) -> ProcessorTransaction:
        return ProcessorTransaction(
            transaction_id=transaction.id,
            kind=transaction.type,
            amount_cents=transaction.amount,
            fee_cents=transaction.fee,
            net_cents=transaction.net,
            created_at_s=transaction.created,
            is_available=transaction.status == "available",
            subject=self._subject(transaction.source),
        )

    def _subject(self, source: object) -> str:
        """What it is about in our terms."""
        match source:
            case stripe.Charge():
                return subject_in(source.metadata, TOPUP_KEY)
            case stripe.Refund():
                return subject_in(source.metadata, REFUND_KEY)
            case stripe.Transfer():
                return source.transfer_group or ""
            case stripe.TransferReversal():
                return self._reversed(source.transfer)
            case stripe.Dispute():
                return source.id
        return ""

    def _reversed(self, transfer: object) -> str:
        """The payout whose transfer was reversed: one more request, for something rare."""
        if isinstance(transfer, str):
            transfer = self._client.v1.transfers.retrieve(transfer, {}, READING)
        return transfer.transfer_group or "" if isinstance(transfer, stripe.Transfer) else ""


def _signed_at_s(signature: str) -> int:
    """`t=` of the header; raises ValueError."""
    for part in signature.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t":
            return int(value)
    raise ValueError("no time in the signature")


def _event(payload: bytes) -> ProcessorEvent:
    """A verified body; raises EventUnverified where it is no event."""
    try:
        event = json.loads(payload)
        event_id, kind = str(event["id"]), str(event["type"])
        object_id = str(event["data"]["object"]["id"])
        account = str(event.get("account") or "")
    except (ValueError, KeyError, TypeError) as error:
        raise EventUnverified("The body is no event.") from error
    if max(map(len, (event_id, kind, object_id, account))) > EVENT_ID_CHARACTERS_MAX:
        raise EventUnverified("The event's names are too long.")
    return ProcessorEvent(event_id, kind, object_id, account, payload)
