"""Money out through the real client: keys, errors, and what a transfer's group tells."""

import pytest

from marketplace.payments.processor import (
    OutcomeUnknown,
    ProcessorBusy,
    ProcessorRefused,
)
from marketplace.payments.stripe_gateway import StripeProcessor
from tests.fakestripe import FakeStripe, Fault

PAYOUT = "0f" * 16
DAY_S = 24 * 3600


@pytest.fixture
def stripe():
    with FakeStripe() as server:
        yield server


@pytest.fixture
def processor(stripe):
    return StripeProcessor(
        stripe.api_key, public_url="https://market.test", api_base=stripe.url, timeout_s=1
    )


@pytest.fixture
def recipient(stripe, processor):
    """A provider that has told Stripe everything, and a balance to pay from."""
    stripe.fund(1_000_000)
    made = processor.create_recipient("a" * 32, "ann@example.test", "US")
    stripe.onboard(made)
    return made


def test_a_recipient_is_the_same_again_and_is_ready_once_it_told_everything(stripe, processor):
    made = processor.create_recipient("b" * 32, "bob@example.test", "US")
    assert processor.create_recipient("b" * 32, "bob@example.test", "US") == made
    before = processor.recipient_state(made)
    assert not before.payouts_enabled
    assert "bank_account" in before.missing
    assert processor.onboarding_url(made) != processor.onboarding_url(made)
    stripe.onboard(made, bank_fingerprint="fp_1")
    after = processor.recipient_state(made)
    assert (after.payouts_enabled, after.missing, after.bank_fingerprint) == (True, (), "fp_1")
    stripe.restrict(made, "identity.document")
    assert processor.recipient_state(made).missing == ("identity.document",)


def test_a_recipient_is_of_the_country_that_was_said(stripe, processor):
    """In most countries Stripe wants cards asked for too: that is found out by asking."""
    made = {code: processor.create_recipient("b" * 32, "b@b.test", code) for code in ("US", "DE")}
    assert made["US"] != made["DE"]
    assert made["DE"] == processor.create_recipient("b" * 32, "b@b.test", "DE")
    seen = {thing["id"]: thing for thing in stripe.all("v2.core.account")}
    assert len(seen) == 2
    assert seen[made["US"]]["identity"] == {"country": "us"}
    assert seen[made["US"]]["applied_configurations"] == ["recipient"]
    assert seen[made["DE"]]["identity"] == {"country": "de"}
    assert seen[made["DE"]]["applied_configurations"] == ["merchant", "recipient"]
    stripe.onboard(made["DE"], bank_fingerprint="fp_1")
    assert processor.recipient_state(made["DE"]).payouts_enabled


def test_another_address_within_the_day_is_no_contradiction(processor):
    first = processor.create_recipient("b" * 32, "b@b.test", "US")
    assert processor.create_recipient("b" * 32, "b@c.test", "US") != first


@pytest.mark.parametrize(
    ("country", "code", "words"),
    [
        ("NP", "country_unsupported", "NP is not currently supported by Stripe"),
        ("ZZ", "country_code_invalid", "Country 'zz' is unknown"),
        ("", "identity_country_required", "country is required"),
    ],
)
def test_a_country_that_stripe_will_not_have_is_refused_in_its_words(
    stripe, processor, country, code, words
):
    with pytest.raises(ProcessorRefused, match=words) as refused:
        processor.create_recipient("b" * 32, "bob@example.test", country)
    assert refused.value.code == code
    assert stripe.all("v2.core.account") == []


def test_a_transfer_is_sent_once_and_found_by_its_payout(stripe, processor, recipient):
    sent = processor.create_transfer(PAYOUT, 1234, recipient, attempt=1)
    assert processor.create_transfer(PAYOUT, 1234, recipient, attempt=1) == sent
    assert processor.find_transfers(PAYOUT) == [sent]
    assert (sent.payout_id, sent.amount_cents, sent.reversed_cents) == (PAYOUT, 1234, 0)
    assert processor.available_cents() == stripe.available_cents == 1_000_000 - 1234
    stripe.reverse(sent.transfer_id, 1000)
    assert processor.find_transfers(PAYOUT)[0].reversed_cents == 1000


@pytest.mark.parametrize(
    ("fault", "error", "sent"),
    [
        (Fault.DROP_BEFORE, OutcomeUnknown, 0),
        (Fault.DROP_AFTER, OutcomeUnknown, 1),
        (Fault.ERROR_BEFORE, OutcomeUnknown, 0),
        (Fault.ERROR_STORED, OutcomeUnknown, 0),
        (Fault.ERROR_STORED_AFTER, OutcomeUnknown, 1),
        (Fault.TIMEOUT, OutcomeUnknown, 1),
        (Fault.CONFLICT, ProcessorBusy, 0),
        (Fault.RATE_LIMIT, ProcessorBusy, 0),
    ],
)
def test_what_goes_wrong_is_told_apart_and_never_sent_twice(
    stripe, processor, recipient, fault, error, sent
):
    stripe.faults.next(fault)
    with pytest.raises(error):
        processor.create_transfer(PAYOUT, 100, recipient, attempt=1)
    assert len(stripe.transfers(PAYOUT)) == sent
    assert len(processor.find_transfers(PAYOUT)) == sent
    assert stripe.faults.counts == {fault: 1}


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_BEFORE])
def test_the_same_key_again_finishes_what_was_begun(stripe, processor, recipient, fault):
    stripe.faults.next(fault)
    with pytest.raises(OutcomeUnknown):
        processor.create_transfer(PAYOUT, 100, recipient, attempt=1)
    processor.create_transfer(PAYOUT, 100, recipient, attempt=1)
    assert len(stripe.transfers(PAYOUT)) == 1


def test_while_the_first_is_under_way_the_second_is_told_to_wait(stripe, processor, recipient):
    stripe.faults.hang_s = 1.5
    stripe.faults.next(Fault.TIMEOUT)
    with pytest.raises(OutcomeUnknown):
        processor.create_transfer(PAYOUT, 100, recipient, attempt=1)
    with pytest.raises(ProcessorBusy):
        processor.create_transfer(PAYOUT, 100, recipient, attempt=1)


def test_a_stored_500_is_replayed_until_the_key_is_forgotten(stripe, processor, recipient):
    stripe.faults.next(Fault.ERROR_STORED)
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            processor.create_transfer(PAYOUT, 100, recipient, attempt=1)
    stripe.clock.advance(DAY_S)
    processor.create_transfer(PAYOUT, 100, recipient, attempt=1)
    assert len(stripe.transfers(PAYOUT)) == 1


def test_a_forgotten_key_sends_again(stripe, processor, recipient):
    """Why a payout is looked up before it is sent again."""
    processor.create_transfer(PAYOUT, 100, recipient, attempt=1)
    stripe.clock.advance(DAY_S)
    processor.create_transfer(PAYOUT, 100, recipient, attempt=1)
    assert len(processor.find_transfers(PAYOUT)) == 2


def test_a_key_for_other_parameters_says_nothing_about_the_first(stripe, processor, recipient):
    processor.create_transfer(PAYOUT, 100, recipient, attempt=1)
    with pytest.raises(OutcomeUnknown):
        processor.create_transfer(PAYOUT, 101, recipient, attempt=1)


def test_too_little_money_is_a_no_that_is_kept_under_the_key(stripe, processor, recipient):
    with pytest.raises(ProcessorRefused) as refused:
        processor.create_transfer(PAYOUT, 1_000_001, recipient, attempt=1)
    assert refused.value.code == "balance_insufficient"
    stripe.fund(1)
    with pytest.raises(ProcessorRefused):
        processor.create_transfer(PAYOUT, 1_000_001, recipient, attempt=1)
    processor.create_transfer(PAYOUT, 1_000_001, recipient, attempt=2)
    assert stripe.available_cents == 0


def test_money_that_is_pending_cannot_be_sent(stripe, processor, recipient):
    stripe.fund(500, available_after_s=DAY_S)
    with pytest.raises(ProcessorRefused):
        processor.create_transfer(PAYOUT, 1_000_500, recipient, attempt=1)
    stripe.clock.advance(DAY_S)
    assert processor.available_cents() == 1_000_500


def test_a_wrong_key_did_nothing(stripe, recipient):
    other = StripeProcessor("sk_wrong", public_url="https://m.test", api_base=stripe.url)
    with pytest.raises(ProcessorBusy):
        other.create_transfer(PAYOUT, 100, recipient, attempt=1)
    assert stripe.transfers() == []


def test_nobody_there_may_have_happened(recipient, stripe):
    away = StripeProcessor("sk", public_url="https://m.test", api_base="http://127.0.0.1:1")
    with pytest.raises(OutcomeUnknown):
        away.create_transfer(PAYOUT, 100, recipient, attempt=1)


def test_by_rate_every_payout_ends_with_one_transfer(stripe, processor, recipient):
    """Look up, then the same key again: what the payout worker does, three hundred times."""
    rates = dict.fromkeys((Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.RATE_LIMIT), 0.1)
    stripe.faults.by_rate(rates, seed=11)
    for number in range(300):
        payout = f"{number:032x}"
        while not processor.find_transfers(payout):
            try:
                processor.create_transfer(payout, 10, recipient, attempt=1)
            except (OutcomeUnknown, ProcessorBusy):
                continue
    assert len(stripe.transfers()) == 300
    assert stripe.available_cents == 1_000_000 - 3_000
    assert min(stripe.faults.counts.values()) > 10
