"""Settlements beside others: what contradicts is found, parked once, and none wait in a circle."""

import pytest
from sqlalchemy import select

from ledger.book import Book
from ledger.dispute_models import DisputeLeaseRow, DisputeRow
from ledger.equivocation import load_proof
from ledger.lanes import load_lanes
from ledger.parking import disputed_account
from tests.ledger.world import (
    accept,
    id_of,
    leased_hold,
    receipt_of,
)
from tests.marketplace.disputes.repaired import (
    LEASES,
    PAY,
    PROVIDERS,
    earned,
    earnings_of,
    hand_in,
    lease_under,
    parked,
    settle,
)
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals
from tests.protocol.samples import digest

pytestmark = on_postgresql


@pytest.fixture
def repaired(database):
    """Two holds of one session, both due; hop 1 says that it sent other than hop 2 received."""
    with database.transaction() as session:
        leased_hold(session, "first", [LEASES[0], LEASES[2]])
        leased_hold(session, "second", [LEASES[1]])
        hand_in(session, 0)
        hand_in(session, 1, link_out_hash=digest("lie"))
        hand_in(session, 2)
    return database


def test_two_workers_that_settle_two_holds_of_a_session_find_what_contradicts(repaired):
    one, other = overlapping(repaired, settle, in_transaction(repaired, settle))
    assert {one[0].hold_id, other[0].hold_id} == {id_of("first"), id_of("second")}
    with repaired.reading() as session:
        assert [parked(session, hop) for hop in range(3)] == [0, PAY, PAY]
        assert [earned(session, hop) for hop in range(3)] == [PAY, 0, 0]
        (dispute,) = session.execute(select(DisputeRow)).scalars()
        assert "hop 1 sent other than hop 2 received" in dispute.claim
        rows = session.execute(select(DisputeLeaseRow)).scalars().all()
        assert {row.lease_id: row.parked_nanos for row in rows} == {
            LEASES[1].lease_id: PAY,
            LEASES[2].lease_id: PAY,
        }


def test_two_workers_who_both_find_a_liar_before_them_park_what_it_was_paid_once(database):
    """Hop 2 was paid; two who stood before it, one after the other, say that they sent other."""
    once_more = lease_under("elsewhere", 2, session_id=id_of("elsewhere"))
    with database.transaction() as session:
        for hold, lease in (("first", LEASES[2]), ("elsewhere", once_more)):
            leased_hold(session, hold, [lease])
            hand_in(session, 2, lease)
        settle(session, limit=2)
        for hold in ("second", "third"):
            leased_hold(session, hold, [lease_under(hold, 1)])
            hand_in(session, 1, lease_under(hold, 1), link_out_hash=digest("lie"))
    outcomes = overlapping(database, settle, in_transaction(database, settle))
    assert refusals(outcomes) == []
    with database.reading() as session:
        assert (parked(session, 2), earned(session, 2)) == (PAY, PAY)
        assert earned(session, 1) == 0
        rows = session.execute(select(DisputeLeaseRow)).scalars().all()
        assert sorted(row.parked_nanos for row in rows) == [0, PAY, PAY, PAY]


def test_who_parks_what_was_paid_before_locks_accounts_in_the_order_of_all(database):
    """Another books on the same two providers in that order: neither may wait for the other."""
    low, high = sorted((1, 2), key=lambda hop: earnings_of(hop).name)
    lies = {1: {"link_out_hash": digest("lie")}, 2: {}}
    with database.transaction() as session:
        for hop, hold in ((low, "before"), (high, "after")):
            lease = lease_under(hold, hop)
            leased_hold(session, hold, [lease])
            hand_in(session, hop, lease, **lies[hop])
            if hold == "before":
                settle(session)
        # of another session: what its machine is paid is booked together with what is parked
        other = lease_under("too", high, session_id=id_of("another"))
        leased_hold(session, "too", [other])
        hand_in(session, high, other)
    # were `high` booked on before `low` is asked for, this would be a circle
    outcomes = overlapping(
        database,
        lambda session: Book(session).lock([earnings_of(low)]),
        in_transaction(database, lambda session: settle(session, limit=2)),
        then=lambda session: Book(session).lock([earnings_of(high)]),
    )
    assert refusals(outcomes) == []
    with database.reading() as session:
        assert [earned(session, hop) for hop in (low, high)] == [0, PAY]
        for hop, hold in ((low, "before"), (high, "after")):
            lies_in = disputed_account(lease_under(hold, hop).lease_id)
            assert Book(session).balance(lies_in).posted_nanos == PAY


def test_a_settlement_waits_for_no_lane_that_was_settled_before(database):
    """A machine hands in again what is settled, together with what is just being settled."""
    low, high = sorted((1, 2), key=lambda hop: LEASES[hop].lease_id)
    leases = {hop: lease_under("first" if hop == low else "second", hop) for hop in (low, high)}
    with database.transaction() as session:
        for hop, hold in ((low, "first"), (high, "second")):
            leased_hold(session, hold, [leases[hop]])
            hand_in(session, hop, leases[hop])
            if hop == low:
                settle(session)
    outcomes = overlapping(
        database,
        lambda session: len(load_lanes(session, [leases[low].lease_id])),
        in_transaction(database, settle),
        then=lambda session: load_lanes(session, [leases[high].lease_id]),
    )
    assert refusals(outcomes) == []


def test_an_equivocation_waits_for_no_hold_that_is_being_extended(database):
    """Holds are locked before lanes; who hands in a second receipt has the lane already."""
    lease = LEASES[0]
    with database.transaction() as session:
        leased_hold(session, "first", [lease])
        hand_in(session, 0, final=False)

    def contradict(session):
        second = receipt_of(lease, 1, 11, provider=PROVIDERS[0], epoch=1)
        (outcome,) = accept(session, second, provider=PROVIDERS[0])
        return outcome.reason

    outcomes = overlapping(
        database,
        lambda session: Book(session).parts(lease.hold_id),
        in_transaction(database, contradict),
        then=lambda session: load_lanes(session, [lease.lease_id]),
    )
    assert refusals(outcomes) == []
    assert "equivocation" in outcomes[1]
    with database.reading() as session:
        assert load_proof(session, lease.lease_id) is not None
        assert load_lanes(session, [lease.lease_id])[lease.lease_id].mark.final
