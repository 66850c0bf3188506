"""Where an account is paid: its country is its own word, and the processor's for good."""

import pytest

from marketplace.payments.processor import RecipientState
from marketplace.payouts import recipients
from marketplace.payouts.errors import (
    CountryFixed,
    CountryUnknown,
    ProcessorAway,
    RecipientMissing,
    RecipientRefused,
)
from marketplace.payouts.jobs import send
from marketplace.users.errors import TooManyAttempts
from tests.marketplace.payouts.world import DAY_S
from tests.postgres import both_engines

pytestmark = both_engines

EMAIL = "a@b.example"


@pytest.fixture
def account(pay):
    return pay.account(ready=False)


@pytest.fixture
def open_in(pay, account):
    """Ask for the account's recipient in a country; gives the page."""
    return lambda country: recipients.open_recipient(pay.market, account, EMAIL, country)


@pytest.fixture
def kept(pay, account):
    """What is kept of it: its name at the processor, and its country."""

    def read():
        with pay.reading() as session:
            row = recipients.require(session, account)
            return row.recipient, row.country

    return read


@pytest.fixture
def incomplete(pay, account):
    """The processor still asks for something, in whatever country."""
    for name in (f"acct_{account}", f"acct_{account}_JP"):
        pay.processor.states[name] = RecipientState(name, False, ("bank_account",))


def test_the_same_request_again_gives_the_same_recipient(pay, account, open_in, kept):
    first = open_in("de")
    assert open_in("DE") == first
    assert kept() == (f"acct_{account}", "DE")
    assert pay.processor.created == 1


def test_what_is_no_country_reaches_no_processor(pay, open_in, kept):
    with pytest.raises(CountryUnknown, match="'UK'"):
        open_in("UK")
    assert pay.processor.created == 0
    with pytest.raises(RecipientMissing):
        kept()


def test_what_the_processor_refuses_is_passed_on_and_not_kept(pay, account, open_in, kept):
    pay.processor.refused_countries = {"KP"}
    with pytest.raises(RecipientRefused, match="KP is not supported") as refused:
        open_in("KP")
    assert refused.value.details == {"reason": "country_unsupported"}
    with pytest.raises(RecipientMissing):
        kept()
    open_in("DE")
    assert kept() == (f"acct_{account}", "DE")


@pytest.mark.usefixtures("incomplete")
class TestAnotherCountry:
    def test_before_it_is_complete_it_is_another_recipient(self, pay, account, open_in, kept):
        open_in("DE")
        page = open_in("JP")
        assert kept() == (f"acct_{account}_JP", "JP")
        assert page.endswith(kept()[0])
        assert open_in("JP") == page
        open_in("DE")
        assert kept() == (f"acct_{account}", "DE")

    def test_a_day_has_few_changes(self, pay, account, open_in, kept):
        for country in ("DE", "JP", "DE", "JP", "DE", "JP"):
            open_in(country)
        with pytest.raises(TooManyAttempts):
            open_in("DE")
        assert kept() == (f"acct_{account}_JP", "JP")
        pay.pass_time(DAY_S)
        open_in("DE")

    def test_refused_there_it_stays_where_it_was(self, pay, account, open_in, kept):
        open_in("DE")
        pay.processor.refused_countries = {"JP"}
        with pytest.raises(RecipientRefused):
            open_in("JP")
        assert kept() == (f"acct_{account}", "DE")

    def test_finished_a_moment_ago_it_stays(self, pay, account, open_in, kept):
        open_in("DE")
        del pay.processor.states[f"acct_{account}"]
        with pytest.raises(CountryFixed, match="paid in DE"):
            open_in("JP")
        assert kept() == (f"acct_{account}", "DE")

    def test_while_nobody_answers_nothing_changes(self, pay, account, open_in, kept):
        open_in("DE")
        pay.processor.deaf = True
        with pytest.raises(ProcessorAway):
            open_in("JP")
        assert kept() == (f"acct_{account}", "DE")

    def test_of_two_at_once_the_first_is_kept(self, pay, account, open_in, kept):
        """The second has asked the processor before the first was written down."""
        honest = pay.processor.create_recipient

        def overtaken(account_id, email, country):
            pay.processor.create_recipient = honest
            pay.processor.states.clear()
            open_in("DE")
            return honest(account_id, email, country)

        pay.processor.create_recipient = overtaken
        with pytest.raises(CountryFixed):
            open_in("JP")
        assert kept() == (f"acct_{account}", "DE")


def test_who_was_paid_stays_where_it_was(pay, account, open_in, kept):
    open_in("DE")
    pay.earn(account, 2000)
    pay.reserve(account)
    send(pay.market)
    name = f"acct_{account}"
    pay.processor.states[name] = RecipientState(name, False, ("identity.document",))
    with pytest.raises(CountryFixed):
        open_in("JP")
    assert kept() == (name, "DE")
