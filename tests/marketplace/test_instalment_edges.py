"""The edges of a session's money: how long and how far it grows, and what it leaves for others."""

import pytest

from marketplace.errors import Conflict
from marketplace.leases import replacements
from marketplace.leases.repository import SessionRepository
from marketplace.leases.schemas import ReplacementRequest
from marketplace.leases.signing import settle_by
from tests.marketplace.test_instalments import begin, extend, leases_of, price, try_lease
from tests.marketplace.world import error_of
from tests.postgres import both_engines

pytestmark = both_engines


@pytest.fixture
def asked(world):
    """An answer that costs a cent, the least top-up, and is paid for as it comes."""
    return {"max_tokens": 10**7 // price(world, 0, 1), "funded_tokens": 50}


@pytest.fixture
async def whole(world, providers, asked):
    """What one such session holds at first, and may cost beyond that."""
    buyer = await world.buyer(dollars=1)
    session = await begin(world, buyer, **asked)
    with world.market.database.reading() as database:
        headroom = SessionRepository(database).headroom_nanos(buyer.account_id)
    return session.answer["amount_nanos"], headroom


class TestTime:
    async def test_a_session_grows_until_its_time_is_over(self, world, providers):
        buyer = await world.buyer(dollars=1)
        first, second = [await begin(world, buyer) for _ in range(2)]
        world.pass_time(first.leases[0].settle_by_s - world.clock.now)
        assert (await extend(world, buyer, first, 100)).status_code == 200
        world.pass_time(1)
        assert error_of(await extend(world, buyer, second, 100)) == (409, "conflict")

    async def test_receipts_of_more_are_taken_for_longer(self, world, providers):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        world.pass_time(60)
        answer = await extend(world, buyer, session, 350)
        until_s = settle_by(300, world.clock.now)
        assert until_s > session.leases[0].settle_by_s
        assert {lease.settle_by_s for lease in leases_of(world, answer)} == {until_s}
        assert answer.json()["settle_by_s"] == until_s


class TestWhatIsLeft:
    @pytest.mark.parametrize(("missing", "status"), [(0, 200), (1, 402)])
    async def test_two_begin_with_what_both_may_need_to_the_nano(
        self, world, asked, whole, missing, status
    ):
        held, headroom = whole
        buyer = await world.buyer(nanos=2 * (held + headroom) - missing)
        await begin(world, buyer, **asked)
        assert (await try_lease(world, buyer, **asked)).status_code == status

    async def test_what_one_has_extended_it_still_may_need_more_of(self, world, asked, whole):
        held, headroom = whole
        buyer = await world.buyer(nanos=2 * (held + headroom) - 1)
        session = await begin(world, buyer, **asked)
        assert (await extend(world, buyer, session, 100)).status_code == 200
        assert error_of(await try_lease(world, buyer, **asked)) == (402, "funds_in_flight")

    async def test_rows_in_vain_do_not_eat_what_another_answer_needs(self, world, asked, whole):
        held, headroom = whole
        buyer = await world.buyer(nanos=2 * (held + headroom))
        first = await begin(world, buyer, **asked)
        await begin(world, buyer, **asked)
        answer = await extend(world, buyer, first, 50, drafted_tokens=100_000)
        assert answer.status_code == 402, answer.text
        assert (await world.balance(buyer))["held_nanos"] == 2 * held
        assert held == price(world, 100, 50)


class TestReplacements:
    async def test_of_two_that_were_found_at_once_the_second_finds_again(self, world, providers):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        wanted = ReplacementRequest(epoch=2, lost=[1], rows=120, remaining_tokens=380)
        whose = (world.market, buyer.account_id, session.session_id, wanted)
        with world.market.database.reading() as database:
            route = replacements.find(database, *whose)
        assert (await world.replace(buyer, session)).status_code == 200
        with pytest.raises(Conflict), world.market.database.transaction() as database:
            replacements.lease(database, *whose, route)

    @pytest.mark.parametrize("more", [{"amount_nanos_max": 10**8}, {"funded_tokens": 5}])
    async def test_the_same_epoch_with_another_limit_is_another_request(
        self, world, providers, more
    ):
        buyer = await world.buyer(dollars=1)
        session = await begin(world, buyer)
        assert (await world.replace(buyer, session)).status_code == 200
        again = await world.replace(buyer, session, **more)
        assert error_of(again) == (409, "conflict")
