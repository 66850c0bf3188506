"""Money out through Stripe Connect: recipients (Accounts v2) and transfers from our balance.

What Stripe asks of a recipient's country (docs.stripe.com: `api/v2/core/accounts/create`,
`connect/cross-border-payouts`): it must be named before anybody can be a recipient, as ISO 3166-1
alpha-2, in small letters as in every example; currency, requirements and agreement follow from it,
so it is the account's for good. The country of our own account decides which others it may pay: a
platform in the US, the UK, the EEA, Canada or Switzerland pays accounts in any of those. No list of
them is kept here: Stripe's changes, and its refusal says why.
"""

import hashlib
from typing import TYPE_CHECKING

import stripe

from marketplace.payments.processor import ProcessorRefused, RecipientState, TransferRecord
from marketplace.payments.stripe_gateway.client import READING, StripeClient, keyed
from marketplace.payments.stripe_gateway.errors import talking

if TYPE_CHECKING:
    from stripe.params.v2.core import AccountCreateParams

__all__ = ["StripePayouts"]

MISSING_MAX = 32
"""Requirements told to a provider: more would not be read."""
TRANSFERS_PAGE = 100
_NEEDS_CARDS = frozenset(
    {
        "capability_not_available_without_other_capability",
        "capability_not_available_without_other_capability_in_country",
    }
)
"""Refusals of accounts that would receive transfers and do not ask to take cards."""


class StripePayouts:
    """`PayoutProcessor` over one client. `return_url`: where onboarding leads back to."""

    def __init__(self, client: StripeClient, return_url: str) -> None:
        self._client = client
        self._return_url = return_url

    def create_recipient(self, account_id: str, email: str, country: str) -> str:
        """Its id; within a day the same again for the same account, address and country.

        Raises ProcessorRefused with Stripe's reason where it pays nobody there from our country.
        """
        try:
            return self._create_account(account_id, email, country, takes_cards=False)
        except ProcessorRefused as refusal:
            if refusal.code not in _NEEDS_CARDS:
                raise
        # a definite no, so nothing was made: in many countries Stripe lets nobody receive transfers
        # who does not ask to take cards too; nothing is ever charged through the account
        return self._create_account(account_id, email, country, takes_cards=True)

    def _create_account(
        self, account_id: str, email: str, country: str, *, takes_cards: bool
    ) -> str:
        params = _account(account_id, email, country)
        # every word that may differ is in the key: a key of other words would be refused for a day
        words = hashlib.sha256(email.encode()).hexdigest()[:16]
        key = f"recipient-{account_id}-{country}-{words}"
        if takes_cards:
            params["configuration"]["merchant"] = {
                "capabilities": {"card_payments": {"requested": True}}
            }
            key += "-cards"
        with talking("create a recipient"):
            return self._client.v2.core.accounts.create(params, keyed(key)).id

    def onboarding_url(self, recipient: str) -> str:
        """Stripe's page for one provider; single use, minutes. Nothing moves, so no key."""
        with talking("open an onboarding page"):
            link = self._client.v2.core.account_links.create(
                {
                    "account": recipient,
                    "use_case": {
                        "type": "account_onboarding",
                        "account_onboarding": {
                            "refresh_url": f"{self._return_url}?again=1",
                            "return_url": self._return_url,
                        },
                    },
                }
            )
            return link.url

    def recipient_state(self, recipient: str) -> RecipientState:
        """Whether Stripe lets money go there, and what it still wants to know."""
        with talking("look at a recipient"):
            account = self._client.v2.core.accounts.retrieve(
                recipient, {"include": ["configuration.recipient", "requirements"]}, READING
            )
            missing = tuple(
                entry.description
                for entry in (account.requirements.entries or [] if account.requirements else [])
                if entry.awaiting_action_from == "user"
            )
            enabled = _may_receive(account)
        fingerprint = self._bank_fingerprint(recipient) if enabled else ""
        return RecipientState(recipient, enabled, missing[:MISSING_MAX], fingerprint)

    def create_transfer(
        self, payout_id: str, amount_cents: int, recipient: str, *, attempt: int
    ) -> TransferRecord:
        """Send it; the key is the payout's id, with the attempt where that is above 1."""
        key = f"payout-{payout_id}" if attempt <= 1 else f"payout-{payout_id}-{attempt}"
        with talking("send a transfer"):
            made = self._client.v1.transfers.create(
                {
                    "amount": amount_cents,
                    "currency": "usd",
                    "destination": recipient,
                    "transfer_group": payout_id,
                    "metadata": {"payout_id": payout_id, "attempt": str(attempt)},
                },
                keyed(key),
            )
            return _record(made)

    def find_transfers(self, payout_id: str) -> list[TransferRecord]:
        """Every transfer of the group, oldest first; more than a page would be a bug of ours."""
        with talking("look for transfers"):
            found = self._client.v1.transfers.list(
                {"transfer_group": payout_id, "limit": TRANSFERS_PAGE}, READING
            )
            return [_record(transfer) for transfer in reversed(found.data)]

    def available_cents(self) -> int:
        """Our dollars that may be sent now; 0 where Stripe names none."""
        with talking("look at the balance"):
            balance = self._client.v1.balance.retrieve({}, READING)
            return sum(part.amount for part in balance.available if part.currency == "usd")

    def _bank_fingerprint(self, recipient: str) -> str:
        """Empty where Stripe does not show it to a platform of this kind."""
        try:
            with talking("look at a bank account"):
                accounts = self._client.v1.accounts.external_accounts.list(
                    recipient, {"object": "bank_account", "limit": 1}, READING
                )
                found = [getattr(account, "fingerprint", None) for account in accounts.data]
        except ProcessorRefused:
            return ""
        return str(found[0] or "") if found else ""


def _account(account_id: str, email: str, country: str) -> "AccountCreateParams":
    """Without a currency: it has to be one of the country's, and Stripe knows which that is."""
    return {
        "contact_email": email,
        "dashboard": "express",
        "identity": {"country": country.lower()},
        "configuration": {
            "recipient": {
                "capabilities": {"stripe_balance": {"stripe_transfers": {"requested": True}}}
            }
        },
        "defaults": {
            "responsibilities": {
                "fees_collector": "application",
                "losses_collector": "application",
            },
        },
        "metadata": {"account_id": account_id},
    }


def _may_receive(account: stripe.v2.core.Account) -> bool:
    recipient = account.configuration.recipient if account.configuration else None
    balance = (
        recipient.capabilities.stripe_balance if recipient and recipient.capabilities else None
    )
    transfers = balance.stripe_transfers if balance else None
    return transfers is not None and transfers.status == "active"


def _record(transfer: stripe.Transfer) -> TransferRecord:
    destination = transfer.destination
    return TransferRecord(
        transfer_id=transfer.id,
        payout_id=transfer.transfer_group or "",
        recipient=destination if isinstance(destination, str) else getattr(destination, "id", ""),
        amount_cents=transfer.amount,
        reversed_cents=transfer.amount_reversed,
        created_at_s=transfer.created,
    )
