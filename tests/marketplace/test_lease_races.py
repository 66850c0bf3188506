"""Sessions at the same moment: ended, extended, repaired and settled, each against the others."""

import pytest

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book, clearing_of
from ledger.invariants import check
from ledger.settle_window import settle_ready
from marketplace.errors import Conflict
from marketplace.leases import extending, replacements, service
from marketplace.leases.repository import SessionRepository
from marketplace.leases.schemas import ExtensionRequest, LeaseRequest, ReplacementRequest
from protocol.route import Span
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals
from tests.marketplace.world import Provider, manifest, three_providers

pytestmark = on_postgresql


@pytest.fixture
async def buyer(world):
    """With machines to buy from, and some to take the place of the one in the middle."""
    await world.register(manifest())
    world.providers = [*three_providers(), Provider(Span(4, 8))]
    await world.publish(manifest(), *world.providers)
    buyer = await world.buyer(dollars=1)
    yield buyer
    with world.market.database.reading() as session:
        assert check(session) == []


async def begin(world, buyer):
    return await world.lease(buyer, (await world.quote(buyer, funded_tokens=10)).json())


def holds_of(world, paid):
    with world.market.database.reading() as session:
        return list(SessionRepository(session).hold_states(paid.session_id))


def extending_to(world, buyer, paid, tokens):
    request = ExtensionRequest(funded_tokens=tokens)
    return lambda session: extending.extend(
        session, world.market, buyer.account_id, paid.session_id, request
    )


def closing(world, buyer, paid):
    return lambda session: service.close(
        session, buyer.account_id, paid.session_id, now_s=world.clock.now
    )


@pytest.mark.parametrize("closed_first", [True, False])
async def test_a_session_is_closed_with_all_that_is_held_for_it(world, buyer, closed_first):
    paid, database = await begin(world, buyer), world.market.database
    pair = [closing(world, buyer, paid), extending_to(world, buyer, paid, 40)]
    first, second = pair if closed_first else pair[::-1]
    outcomes = overlapping(database, first, in_transaction(database, second))
    assert refusals(outcomes) == ([Conflict] if closed_first else [])
    assert all(hold.closed for hold in holds_of(world, paid))


@pytest.mark.parametrize("closed_first", [True, False])
async def test_no_hop_is_replaced_in_a_session_that_is_being_closed(world, buyer, closed_first):
    paid, database = await begin(world, buyer), world.market.database
    lost = [str(lease.provider) for lease in paid.leases][1]
    request = ReplacementRequest(
        epoch=1, lost=[1], rows=20, remaining_tokens=30, deny=[lost], funded_tokens=10
    )
    with database.reading() as session:
        route = replacements.find(session, world.market, buyer.account_id, paid.session_id, request)

    def replace(session):
        return replacements.lease(
            session, world.market, buyer.account_id, paid.session_id, request, route
        ).epoch

    pair = [closing(world, buyer, paid), replace]
    first, second = pair if closed_first else pair[::-1]
    outcomes = overlapping(database, first, in_transaction(database, second))
    assert refusals(outcomes) == ([Conflict] if closed_first else [])
    held = holds_of(world, paid)
    assert (len(held), all(hold.closed for hold in held)) == (1 if closed_first else 2, True)


@pytest.mark.parametrize("extended_first", [True, False])
async def test_what_is_extended_is_not_settled_beside_it(world, buyer, extended_first):
    """Its time for receipts ends in this very moment, by the clock of one of the two."""
    paid, database = await begin(world, buyer), world.market.database
    late_s = paid.answer["settle_by_s"] + 1
    world.clock.now = paid.answer["settle_by_s"]

    def settle(session):
        return len(settle_ready(session, now_s=late_s, limit=10))

    extend = extending_to(world, buyer, paid, 40)
    first, second = (extend, settle) if extended_first else (settle, extend)
    outcomes = overlapping(database, first, in_transaction(database, second))
    (hold,) = holds_of(world, paid)
    if extended_first:
        assert outcomes[1] == 0
        assert (hold.charged_nanos, hold.amount_nanos) == (None, outcomes[0].amount_nanos)
    else:
        assert len(refusals(outcomes)) == 1
        assert hold.charged_nanos == 0
        assert (await world.balance(buyer))["held_nanos"] == 0


async def test_a_quote_is_accepted_for_one_of_two_sessions(world, buyer):
    quote, database = (await world.quote(buyer)).json(), world.market.database
    requests = [LeaseRequest(**world.session_for(quote).request) for _ in range(2)]

    def accept(request):
        return lambda session: (
            service.create(
                session, world.market, buyer.account_id, request, key_id=buyer.key_id
            ).amount_nanos
        )

    outcomes = overlapping(
        database, accept(requests[0]), in_transaction(database, accept(requests[1]))
    )
    assert refusals(outcomes) == [Conflict]
    assert (await world.balance(buyer))["held_nanos"] == outcomes[0]


async def repaired(world, buyer):
    """A session with two holds, whose clearing accounts come in the other order than they do."""
    while True:
        paid = await begin(world, buyer)
        lost = str(paid.leases[1].provider)
        answer = await world.replace(
            buyer, paid, deny=[lost], rows=20, remaining_tokens=30, funded_tokens=10
        )
        assert answer.status_code == 200, answer.text
        first, second = [clearing_of(hold.hold_id) for hold in holds_of(world, paid)]
        if first.name > second.name:
            return paid, first, second
        await world.close(buyer, paid)


async def test_a_repaired_session_is_extended_in_the_order_of_all_locks(world, buyer):
    """Somebody settles holds of the same two shards: neither may wait for the other."""
    paid, first, second = await repaired(world, buyer)
    database = world.market.database
    outcomes = overlapping(
        database,
        lambda session: Book(session).lock([second]),
        in_transaction(database, extending_to(world, buyer, paid, 40)),
        then=lambda session: Book(session).lock([first]),
    )
    assert refusals(outcomes) == []


async def test_a_repaired_session_is_extended_without_waiting_for_a_hold_under_way(world, buyer):
    """Its second hold is being settled, which needs the buyer's account."""
    paid, _, _ = await repaired(world, buyer)
    database, (_, hold) = world.market.database, holds_of(world, paid)
    cash = AccountRef(AccountCode.BUYER_CASH, buyer.account_id)
    outcomes = overlapping(
        database,
        lambda session: Book(session).parts(hold.hold_id),
        in_transaction(database, extending_to(world, buyer, paid, 40)),
        then=lambda session: Book(session).lock([cash]),
    )
    assert refusals(outcomes) == []
