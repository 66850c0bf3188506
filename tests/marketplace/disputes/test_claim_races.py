"""Claims, statements and rulings beside others: money is parked and divided once."""

import secrets

import pytest

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.dispute_models import DisputeKind
from ledger.disputes import Opening, open_dispute
from ledger.errors import DisputeRuled
from ledger.rulings import Decision
from marketplace.accounts.models import BuyerRow
from marketplace.disputes import service
from marketplace.disputes.errors import (
    NothingToDispute,
    StatementTooLate,
    TooManyClaims,
    TooManyStatements,
)
from marketplace.disputes.service import Party
from marketplace.machines import service as machines
from marketplace.payouts.releases import service as releases
from marketplace.standing.tiers import DAY_S
from tests.ledger.world import (
    NOW_S,
    id_of,
    leased_hold,
)
from tests.marketplace.disputes.repaired import (
    LATER_S,
    LEASES,
    PAY,
    PROVIDERS,
    earned,
    hand_in,
    lease_under,
    parked,
    settle,
)
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals

pytestmark = on_postgresql


def claim(lease, *, filed_by="referee", dispute_id=None):
    def file(session):
        return service.claim_bad_output(
            session, dispute_id or secrets.token_bytes(16), lease.lease_id,
            claim="not the model", evidence=b"sketch", filed_by=filed_by, now_s=LATER_S,
        )  # fmt: skip

    return file


@pytest.fixture
def paid(database):
    """Provider 0 has two leases of two sessions, both settled and paid: twice PAY."""
    other = lease_under("elsewhere", 0, session_id=id_of("elsewhere"))
    with database.transaction() as session:
        for name, lease in (("first", LEASES[0]), ("elsewhere", other)):
            leased_hold(session, name, [lease])
            hand_in(session, 0, lease)
        settle(session, limit=10)
        assert earned(session, 0) == 2 * PAY
    return database


def test_two_claims_on_one_lease_park_its_pay_once(paid):
    one, other = overlapping(paid, claim(LEASES[0]), in_transaction(paid, claim(LEASES[0])))
    assert one == PAY
    assert isinstance(other, NothingToDispute)
    with paid.reading() as session:
        assert (parked(session, 0), earned(session, 0)) == (PAY, PAY)


def test_unproven_claims_of_one_filer_are_limited_at_any_concurrency(paid):
    with paid.transaction() as session:
        for _ in range(service.OPEN_CLAIMS_MAX - 1):
            opening = Opening(
                secrets.token_bytes(16), DisputeKind.BAD_OUTPUT, LEASES[0].session_id, "bad",
                LATER_S, "referee",
            )  # fmt: skip
            open_dispute(session, opening, ())
    other = lease_under("elsewhere", 0)
    outcomes = overlapping(paid, claim(LEASES[0]), in_transaction(paid, claim(other)))
    assert outcomes[0] == PAY
    assert refusals(outcomes) == [TooManyClaims]


def test_what_a_claim_parks_is_not_released_beside_it(paid):
    with paid.transaction() as session:
        session.add(BuyerRow(account_id="owner", name="owner", created_at_s=NOW_S))

    def release(session):
        return releases.release_machine(
            session, str(PROVIDERS[0].peer_id), lambda *_: "owner", now_s=LATER_S + 60 * DAY_S
        )

    parked_nanos, released = overlapping(paid, claim(LEASES[0]), in_transaction(paid, release))
    assert (parked_nanos, released) == (PAY, 1)
    with paid.reading() as session:
        assert (earned(session, 0), parked(session, 0)) == (0, PAY)
        book = Book(session)
        places = (AccountCode.PROVIDER_PAYABLE, AccountCode.PROVIDER_HELD)
        assert sum(book.balance(AccountRef(p, "owner")).posted_nanos for p in places) == PAY


def test_two_rulings_at_once_move_the_money_once(paid):
    dispute_id = secrets.token_bytes(16)
    with paid.transaction() as session:
        claim(LEASES[0], dispute_id=dispute_id)(session)

    def rule(to_provider):
        def run(session):
            decision = Decision(LEASES[0].lease_id, to_provider, PAY - to_provider)
            return service.rule(
                session, dispute_id, [decision], reason="heard", by="a and b",
                now_s=LATER_S + service.APPEAL_S + 1,
            )  # fmt: skip

        return run

    one, same, another = overlapping(
        paid, rule(PAY), in_transaction(paid, rule(PAY)), in_transaction(paid, rule(0))
    )
    assert (len(one), len(same)) == (1, 0)
    assert isinstance(another, DisputeRuled)
    with paid.reading() as session:
        assert (parked(session, 0), earned(session, 0)) == (0, 2 * PAY)


def disputed(database) -> bytes:
    """A dispute over provider 0's lease, and an account that owns its machine."""
    dispute_id, peer = secrets.token_bytes(16), str(PROVIDERS[0].peer_id)
    with database.transaction() as session:
        session.add(BuyerRow(account_id="owner", name="owner", created_at_s=NOW_S))
        session.flush()
        machines.bind(session, peer, "owner", "box", bound_by="test", now_s=NOW_S)
        claim(LEASES[0], dispute_id=dispute_id)(session)
    return dispute_id


def state(dispute_id):
    def say(session):
        return service.state(
            session, Party("owner"), dispute_id, secrets.token_bytes(16), "mine", now_s=LATER_S
        ).body

    return say


def test_statements_of_one_author_are_limited_at_any_concurrency(paid):
    dispute_id = disputed(paid)

    with paid.transaction() as session:
        for _ in range(service.STATEMENTS_MAX - 1):
            state(dispute_id)(session)
    outcomes = overlapping(paid, state(dispute_id), in_transaction(paid, state(dispute_id)))
    assert outcomes[0] == "mine"
    assert refusals(outcomes) == [TooManyStatements]


def test_nobody_is_heard_on_what_is_ruled_in_the_same_moment(paid):
    dispute_id = disputed(paid)

    def rule(session):
        decision = Decision(LEASES[0].lease_id, PAY, 0)
        return service.rule(
            session, dispute_id, [decision], reason="heard", by="a and b", now_s=LATER_S
        )

    outcomes = overlapping(paid, rule, in_transaction(paid, state(dispute_id)))
    assert refusals(outcomes) == [StatementTooLate]
