"""How far an account is trusted, frozen, linked; and who may choose its providers."""

import secrets

import pytest
from sqlmodel import select

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session, create_all, open_database
from marketplace.accounts.models import BuyerRow
from marketplace.errors import MarketError
from marketplace.standing import service
from marketplace.standing.models import FingerprintRow
from marketplace.standing.tiers import DAY_S, History, Tier, tier_of
from tests.marketplace.world import DOLLAR

NOW_S = 1_800_000_000


@pytest.fixture
def session():
    engine = open_database("sqlite://")
    create_all(engine)
    with Session(engine) as session, session.begin():
        yield session
    engine.dispose()


def account(session, *, age_s=0):
    account_id = secrets.token_hex(16)
    session.add(BuyerRow(account_id=account_id, name="a", created_at_s=NOW_S - age_s))
    session.flush()
    return account_id


def top_up(session, account_id, dollars, *, age_s):
    Book(session).transfer(
        AccountRef(AccountCode.PROCESSOR_PENDING),
        AccountRef(AccountCode.BUYER_CASH, account_id),
        dollars * DOLLAR,
        code="topup",
        ref=secrets.token_hex(16),
        now_s=NOW_S - age_s,
    )


class TestTier:
    @pytest.mark.parametrize(
        ("history", "tier"),
        [
            (History(0, 10**6 * DOLLAR), Tier.NEW),
            (History(10**9, 0), Tier.NEW),
            (History(30 * DAY_S, 50 * DOLLAR), Tier.GROWING),
            (History(30 * DAY_S, 500 * DOLLAR), Tier.GROWING),
            (History(180 * DAY_S, 500 * DOLLAR), Tier.TRUSTED),
            (History(180 * DAY_S, 500 * DOLLAR, 1), Tier.NEW),
        ],
    )
    def test_is_age_and_paid_history_and_no_chargeback(self, history, tier):
        assert tier_of(history) is tier

    def test_a_fresh_top_up_is_no_history(self, session):
        buyer = account(session, age_s=200 * DAY_S)
        top_up(session, buyer, 600, age_s=29 * DAY_S)
        assert service.tier(session, buyer, now_s=NOW_S) is Tier.NEW
        assert service.tier(session, buyer, now_s=NOW_S + DAY_S) is Tier.TRUSTED

    def test_a_freeze_for_a_chargeback_counts_for_a_year(self, session):
        buyer = account(session, age_s=200 * DAY_S)
        top_up(session, buyer, 600, age_s=100 * DAY_S)
        service.freeze(session, buyer, "chargeback dp_1", now_s=NOW_S)
        service.unfreeze(session, buyer, now_s=NOW_S)
        assert service.tier(session, buyer, now_s=NOW_S + 364 * DAY_S) is Tier.NEW
        assert service.tier(session, buyer, now_s=NOW_S + 366 * DAY_S) is Tier.TRUSTED

    def test_nobody_is_new(self, session):
        assert service.tier(session, "0" * 32, now_s=NOW_S) is Tier.NEW


class TestFreeze:
    def test_every_reason_must_be_lifted(self, session):
        owner = account(session)
        for reason in ("operator", "chargeback dp_1", "operator"):
            service.freeze(session, owner, reason, now_s=NOW_S)
        assert service.of(session, owner, now_s=NOW_S).frozen == ("operator", "chargeback dp_1")
        assert service.unfreeze(session, owner, now_s=NOW_S, reason="operator") == 1
        assert service.is_frozen(session, owner)
        assert service.unfreeze(session, owner, now_s=NOW_S) == 1
        assert not service.is_frozen(session, owner)
        service.freeze(session, owner, "operator", now_s=NOW_S + 1)
        assert service.is_frozen(session, owner)

    def test_a_freeze_has_a_reason(self, session):
        with pytest.raises(MarketError):
            service.freeze(session, account(session), "", now_s=NOW_S)


class TestLinks:
    def see(self, session, kind, value, *accounts):
        for account_id in accounts:
            service.note_fingerprint(session, account_id, kind, value, now_s=NOW_S)

    @pytest.mark.parametrize("kind", ["card", "bank", "ip"])
    def test_what_is_shared_links(self, session, kind):
        one, two, three = (account(session) for _ in range(3))
        self.see(session, kind, "x", one, two)
        self.see(session, kind, "y", three)
        assert service.linked_to(session, one) == {two}
        assert service.unpayable_buyers(session, one) == {one, two}

    def test_an_address_of_many_links_nobody_and_a_card_does(self, session):
        accounts = [account(session) for _ in range(6)]
        self.see(session, "ip", "192.0.2.1", *accounts)
        assert service.linked_to(session, accounts[0]) == frozenset()
        self.see(session, "card", "fp", *accounts)
        assert len(service.linked_to(session, accounts[0])) == 5

    def test_kinds_do_not_mix(self, session):
        one, two = account(session), account(session)
        self.see(session, "card", "x", one)
        self.see(session, "bank", "x", two)
        assert service.linked_to(session, one) == frozenset()

    def test_only_a_hash_is_kept_and_the_last_time(self, session):
        one = account(session)
        self.see(session, "card", "fp_secret", one)
        service.note_fingerprint(session, one, "card", "fp_secret", now_s=NOW_S + 9)
        row = session.exec(select(FingerprintRow)).one()
        assert b"fp_secret" not in row.digest
        assert len(row.digest) == 32
        session.refresh(row)
        assert (row.first_seen_at_s, row.last_seen_at_s) == (NOW_S, NOW_S + 9)

    def test_an_operator_may_allow_one(self, session):
        one, two = account(session), account(session)
        self.see(session, "card", "x", one, two)
        service.allow_link(session, one, two, approval_id="a", now_s=NOW_S)
        assert service.unpayable_buyers(session, one) == {one}

    @pytest.mark.parametrize(("kind", "value"), [("card", ""), ("card", "x" * 257)])
    def test_values_have_a_size(self, session, kind, value):
        with pytest.raises(MarketError):
            service.note_fingerprint(session, account(session), kind, value, now_s=NOW_S)


class TestChoosing:
    def may(self, session, account_id, processor="stripe"):
        return service.may_choose(session, account_id, now_s=NOW_S, processor_name=processor)

    def test_a_stranger_may_not_and_with_the_test_processor_everybody_may(self, session):
        buyer = account(session)
        assert not self.may(session, buyer)
        assert self.may(session, buyer, "test")

    def test_history_or_an_operator_vouches(self, session):
        known, old = account(session), account(session, age_s=40 * DAY_S)
        service.verify(session, known, now_s=NOW_S)
        top_up(session, old, 60, age_s=35 * DAY_S)
        assert self.may(session, known)
        assert self.may(session, old)

    def test_not_while_frozen(self, session):
        buyer = account(session)
        service.verify(session, buyer, now_s=NOW_S)
        service.freeze(session, buyer, "operator", now_s=NOW_S)
        assert not self.may(session, buyer)
