"""Connected accounts as Accounts v2 has them, recipients only, and the links that onboard them."""

from datetime import UTC, datetime
from typing import Any

from tests.fakestripe.api import Route
from tests.fakestripe.errors import invalid
from tests.fakestripe.forms import required
from tests.fakestripe.store import Object, Store

__all__ = ["ROUTES", "onboard", "restrict"]

LINK_LIFE_S = 300
NEEDED = ("identity.individual.given_name", "identity.individual.date_of_birth", "bank_account")
"""What a new recipient still has to tell."""


def create(store: Store, params: dict[str, Any]) -> Object:
    recipient = params.get("configuration", {}).get("recipient", {})
    balance = recipient.get("capabilities", {}).get("stripe_balance", {})
    if not balance.get("stripe_transfers", {}).get("requested"):
        raise invalid("Only recipients that request stripe_transfers are known here.")
    made = store.add(
        "v2.core.account",
        "acct",
        applied_configurations=["recipient"],
        contact_email=params.get("contact_email"),
        dashboard=params.get("dashboard", "none"),
        display_name=params.get("display_name"),
        defaults=params.get("defaults"),
        identity={"country": params.get("identity", {}).get("country")},
        metadata=params.get("metadata", {}),
        _transfers="restricted",
        _missing=list(NEEDED),
        _received=0,
        _bank_fingerprint="",
    )
    return _shown(made, params.get("include", ()))


def show(store: Store, params: dict[str, Any], account_id: str) -> Object:
    return _shown(store.get("v2.core.account", account_id), params.get("include", ()))


def link(store: Store, params: dict[str, Any]) -> Object:
    """A page of Stripe's: single use, five minutes."""
    account = store.get("v2.core.account", required(params, "account"))
    use_case = required(params, "use_case")
    if use_case.get("type") != "account_onboarding":
        raise invalid("Only onboarding is known here.", param="use_case.type")
    required(use_case.get("account_onboarding", {}), "refresh_url")
    expires_at_s = store.clock.now_s() + LINK_LIFE_S
    return {
        "object": "v2.core.account_link",
        "account": account["id"],
        "created": _time(store.clock.now_s()),
        "expires_at": _time(expires_at_s),
        "livemode": False,
        "url": f"https://connect.stripe.test/setup/{store.new_id('link')}",
        "use_case": use_case,
    }


def external_accounts(store: Store, params: dict[str, Any], account_id: str) -> Object:
    """The bank account that money goes to, once told."""
    account = store.get("v2.core.account", account_id)
    data = []
    if fingerprint := account["_bank_fingerprint"]:
        data.append(
            {
                "id": f"ba_{account_id}",
                "object": "bank_account",
                "account": account_id,
                "country": "US",
                "currency": "usd",
                "fingerprint": fingerprint,
                "last4": "6789",
                "status": "new",
            }
        )
    url = f"/v1/accounts/{account_id}/external_accounts"
    return {"object": "list", "url": url, "has_more": False, "data": data}


def onboard(store: Store, account_id: str, *, bank_fingerprint: str) -> None:
    """The provider has told everything on Stripe's page."""
    account = store.get("v2.core.account", account_id)
    account.update(_transfers="active", _missing=[], _bank_fingerprint=bank_fingerprint)
    store.emit("account.updated", {"id": account_id, "object": "account"}, account_id)


def restrict(store: Store, account_id: str, *missing: str) -> None:
    """Stripe wants to know more before money may go there again."""
    account = store.get("v2.core.account", account_id)
    account.update(_transfers="restricted", _missing=list(missing))
    store.emit("account.updated", {"id": account_id, "object": "account"}, account_id)


def _shown(account: Object, include: Any) -> Object:
    """Without what is ours; parts that are not included are null, as with Stripe."""
    shown = {key: value for key, value in account.items() if not key.startswith("_")}
    shown["created"] = _time(account["created"])
    status = {"status": account["_transfers"], "status_details": []}
    recipient = {"capabilities": {"stripe_balance": {"stripe_transfers": status}}}
    entries = [
        {
            "awaiting_action_from": "user",
            "description": name,
            "errors": [],
            "impact": {"restricts_capabilities": []},
            "minimum_deadline": {"status": "currently_due"},
            "requested_reasons": [{"code": "routine_onboarding"}],
        }
        for name in account["_missing"]
    ]
    shown["configuration"] = None
    shown["requirements"] = None
    if "configuration.recipient" in include:
        shown["configuration"] = {"customer": None, "merchant": None, "recipient": recipient}
    if "requirements" in include:
        shown["requirements"] = {"entries": entries, "summary": None}
    return shown


def _time(unix_s: int) -> str:
    """RFC 3339, as v2 writes times."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


ROUTES = (
    Route("POST", "/v2/core/accounts", create),
    Route("GET", "/v2/core/accounts/{}", show),
    Route("POST", "/v2/core/account_links", link),
    Route("GET", "/v1/accounts/{}/external_accounts", external_accounts),
)
