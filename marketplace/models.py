"""Every table of the marketplace and the ledger, for whoever needs the whole schema."""

from ledger import log_models
from ledger import models as ledger_models
from marketplace.accounts import models as account_models
from marketplace.disputes import models as dispute_models
from marketplace.keys import models as key_models
from marketplace.leases import models as lease_models
from marketplace.machines import models as machine_models
from marketplace.manifests import models as manifest_models
from marketplace.offers import models as offer_models
from marketplace.operations import models as operation_models
from marketplace.payments import models as payment_models
from marketplace.payouts import models as payout_models
from marketplace.quotes import models as quote_models
from marketplace.standing import models as standing_models
from marketplace.users import models as user_models

__all__ = [
    "account_models",
    "dispute_models",
    "key_models",
    "lease_models",
    "ledger_models",
    "log_models",
    "machine_models",
    "manifest_models",
    "offer_models",
    "operation_models",
    "payment_models",
    "payout_models",
    "quote_models",
    "standing_models",
    "user_models",
]
