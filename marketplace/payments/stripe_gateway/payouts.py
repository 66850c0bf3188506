"""Money out through Stripe Connect: recipients (Accounts v2) and transfers from our balance."""

import stripe

from marketplace.payments.processor import ProcessorRefused, RecipientState, TransferRecord
from marketplace.payments.stripe_gateway.client import READING, StripeClient, keyed
from marketplace.payments.stripe_gateway.errors import talking

__all__ = ["StripePayouts"]

MISSING_MAX = 32
"""Requirements told to a provider: more would not be read."""
TRANSFERS_PAGE = 100
COUNTRY_DEFAULT = "us"


class StripePayouts:
    """`PayoutProcessor` over one client. `return_url`: where onboarding leads back to."""

    def __init__(self, client: StripeClient, return_url: str) -> None:
        self._client = client
        self._return_url = return_url

    def create_recipient(self, account_id: str, email: str) -> str:
        """The id of the account's recipient; within a day the same again for the same account."""
        with talking("create a recipient"):
            made = self._client.v2.core.accounts.create(
                {
                    "contact_email": email,
                    "dashboard": "express",
                    "identity": {"country": COUNTRY_DEFAULT},
                    "configuration": {
                        "recipient": {
                            "capabilities": {
                                "stripe_balance": {"stripe_transfers": {"requested": True}}
                            }
                        }
                    },
                    "defaults": {
                        "currency": "usd",
                        "responsibilities": {
                            "fees_collector": "application",
                            "losses_collector": "application",
                        },
                    },
                    "metadata": {"account_id": account_id},
                },
                keyed(f"recipient-{account_id}"),
            )
            return made.id

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
