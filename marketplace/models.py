"""Every table of the marketplace and the ledger, for whoever needs the whole schema."""

from ledger import models as ledger_models
from marketplace.accounts import models as account_models
from marketplace.keys import models as key_models
from marketplace.leases import models as lease_models
from marketplace.manifests import models as manifest_models
from marketplace.offers import models as offer_models
from marketplace.payments import models as payment_models
from marketplace.quotes import models as quote_models

__all__ = [
    "account_models",
    "key_models",
    "lease_models",
    "ledger_models",
    "manifest_models",
    "offer_models",
    "payment_models",
    "quote_models",
]
