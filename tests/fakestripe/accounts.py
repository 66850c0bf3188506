"""Connected accounts as Accounts v2 has them, recipients only, and the links that onboard them.

The platform is in the United States, so it pays accounts in the US, the UK, the EEA, Canada and
Switzerland (docs.stripe.com/connect/cross-border-payouts). `identity_country_required`,
`account_country_unsupported_currency` and `capability_not_available_without_other_capability` are
codes of v2; those for a country that is none, or not paid, are v1's: v2's are not documented.
"""

from datetime import UTC, datetime
from typing import Any

from protocol.countries import COUNTRIES
from tests.fakestripe.api import Route
from tests.fakestripe.errors import invalid
from tests.fakestripe.forms import required
from tests.fakestripe.store import Object, Store

__all__ = ["ROUTES", "onboard", "restrict"]

LINK_LIFE_S = 300
NEEDED = ("identity.individual.given_name", "identity.individual.date_of_birth", "bank_account")
"""What a new recipient still has to tell."""
EURO = "at be bg cy de ee es fi fr gr hr ie it lt lu lv mt nl pt si sk"
CURRENCIES = {
    **dict.fromkeys(EURO.split(), "eur"),
    "us": "usd", "ca": "cad", "gb": "gbp", "ch": "chf", "li": "chf", "cz": "czk", "dk": "dkk",
    "hu": "huf", "is": "isk", "no": "nok", "pl": "pln", "ro": "ron", "se": "sek",
}  # fmt: skip
"""Of every country that is paid."""
TRANSFERS_ALONE = frozenset({"us"})
"""Where a recipient need not ask to take cards as well."""
COUNTRY = "identity.country"
TRANSFERS = "configuration.recipient.capabilities.stripe_balance.stripe_transfers"


def create(store: Store, params: dict[str, Any]) -> Object:
    recipient = params.get("configuration", {}).get("recipient", {})
    balance = recipient.get("capabilities", {}).get("stripe_balance", {})
    if not balance.get("stripe_transfers", {}).get("requested"):
        raise invalid("Only recipients that request stripe_transfers are known here.")
    country = _country(params)
    merchant = params["configuration"].get("merchant", {})
    takes_cards = merchant.get("capabilities", {}).get("card_payments", {}).get("requested")
    if country not in TRANSFERS_ALONE and not takes_cards:
        raise invalid(
            "The stripe_balance.stripe_transfers capability cannot be requested without"
            " configuration.merchant.capabilities.card_payments.",
            code="capability_not_available_without_other_capability",
            param=TRANSFERS,
        )
    made = store.add(
        "v2.core.account",
        "acct",
        applied_configurations=["merchant", "recipient"] if takes_cards else ["recipient"],
        contact_email=params.get("contact_email"),
        dashboard=params.get("dashboard", "none"),
        display_name=params.get("display_name"),
        defaults=params.get("defaults"),
        identity={"country": country},
        metadata=params.get("metadata", {}),
        _transfers="restricted",
        _missing=list(NEEDED),
        _received=0,
        _bank_fingerprint="",
    )
    return _shown(made, params.get("include", ()))


def _country(params: dict[str, Any]) -> str:
    """Where the account is, and that its currency is one of that country's."""
    country = params.get("identity", {}).get("country")
    if not country:
        message = "Identity country is required for the requested configurations."
        raise invalid(message, code="identity_country_required", param=COUNTRY)
    if country.upper() not in COUNTRIES:
        message = (
            f"Country '{country}' is unknown. Try using a 2-character alphanumeric country code"
            " instead, such as 'US', 'EG', or 'GB'."
        )
        raise invalid(message, code="country_code_invalid", param=COUNTRY)
    country = country.lower()
    if country not in CURRENCIES:
        message = f"{country.upper()} is not currently supported by Stripe."
        raise invalid(message, code="country_unsupported", param=COUNTRY)
    currency = (params.get("defaults") or {}).get("currency")
    if currency not in (None, CURRENCIES[country]):
        message = f"The currency {currency} is not allowed for the account's country."
        code = "account_country_unsupported_currency"
        raise invalid(message, code=code, param="defaults.currency")
    return str(country)


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
                "country": account["identity"]["country"].upper(),
                "currency": CURRENCIES[account["identity"]["country"]],
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
