"""Stripe where a key for it is set, and only if payments could be heard of."""

import pytest

from marketplace.config import MarketConfig
from marketplace.errors import MarketError
from marketplace.payments.choosing import choose_processor

STRIPE = {
    "stripe_api_key": "sk_test_1",
    "stripe_webhook_secret": "whsec_1",
    "public_url": "https://market.test",
}


def test_without_a_key_it_is_the_test_processor(tmp_path):
    assert choose_processor(MarketConfig(home=tmp_path)).name == "test"


def test_with_a_key_it_is_stripe(tmp_path):
    assert choose_processor(MarketConfig(home=tmp_path, **STRIPE)).name == "stripe"


@pytest.mark.parametrize("missing", ["stripe_webhook_secret", "public_url"])
def test_half_a_setting_is_refused_by_name(tmp_path, missing):
    with pytest.raises(MarketError) as refused:
        choose_processor(MarketConfig(home=tmp_path, **STRIPE | {missing: ""}))
    assert missing.upper() in refused.value.hint
    assert "sk_test_1" not in str(refused.value)
