"""Routes of the pool: bought from a real marketplace in this process, and from a lying one."""

import base64
import dataclasses

import httpx
import pytest

from marketplace.errors import DatabaseUnavailable
from node.errors import MarketRefused, MarketUnreachable, PaymentRequired
from node.market_client import MarketClient
from node.router.base import RouteRequest
from node.router.market import MarketRouter
from protocol.envelope import open_envelope, seal
from protocol.errors import NoRoute, VerificationError
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.money import Rates
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.marketplace.world import Provider, manifest, three_providers

ALL = frozenset({0, 1, 2})


class Lossy(httpx.AsyncBaseTransport):
    """Carries requests to the marketplace; answers may be lost, or changed on their way."""

    def __init__(self, app) -> None:
        self._inner = httpx.ASGITransport(app=app)
        self.lose = 0
        self.instead: list[httpx.Response] = []
        """Given in the place of its next answers, which it has given."""
        self.requests: list[str] = []

    async def handle_async_request(self, request):
        self.requests.append(request.url.path)
        answer = await self._inner.handle_async_request(request)
        if self.instead:
            return self.instead.pop(0)
        if self.lose:
            self.lose -= 1
            raise httpx.ReadTimeout("lost")
        return answer


class Market(MarketClient):
    """A marketplace whose answers to replacements can be forged by a test."""

    def forge(self, change):
        self.change = change

    async def replacements(self, session_id, body, api_key):
        answer = await super().replacements(session_id, body, api_key)
        if change := getattr(self, "change", None):
            change(answer)
        return answer


@pytest.fixture
async def pool(world):
    await world.register(manifest())
    providers = [*three_providers(), Provider(Span(4, 8))]
    await world.publish(manifest(), *providers[:3])
    return providers


@pytest.fixture
def way(world):
    return Lossy(world.app)


@pytest.fixture
async def client(world, way):
    async with Market("http://market", KeyPair.generate(), transport=way) as made:
        yield made


@pytest.fixture
def router(world, client):
    return MarketRouter(client, world.market.key.peer_id, world.head.peer_id)


@pytest.fixture
async def request_(world, pool):
    buyer = await world.buyer(nanos=20_000_000)
    return RouteRequest(manifest(), 100, 50, WireDtype.BF16, sealed=True, api_key=buyer.api_key)


@pytest.fixture
async def plan(router, request_):
    return await router.plan(request_)


def without(request, *providers) -> RouteRequest:
    return dataclasses.replace(request, deny=tuple(p.key.peer_id for p in providers))


def peers(plan):
    return [str(hop.peer_id) for hop in plan.route.hops]


async def test_the_first_route_has_a_lease_for_every_hop(plan, pool):
    assert peers(plan) == [provider.peer for provider in pool[:3]]
    assert [lease.provider for lease in plan.leases] == [p.key.peer_id for p in pool[:3]]
    assert (plan.epoch, plan.standbys) == (0, {})


class TestReplace:
    async def test_survivors_keep_their_leases(self, world, router, plan, pool, request_):
        await world.publish(manifest(), pool[3])
        request = without(request_, pool[1])
        patched = await router.replace(plan, frozenset({1}), request, rows=120)
        assert peers(patched) == [pool[0].peer, pool[3].peer, pool[2].peer]
        assert (patched.session_id, patched.payer_key) == (plan.session_id, plan.payer_key)
        assert patched.epoch == 1
        for index in (0, 2):
            assert patched.leases[index] == plan.leases[index]
            assert patched.lease_envelopes[index] == plan.lease_envelopes[index]
            assert patched.route.hops[index] == plan.route.hops[index]
        new = patched.leases[1]
        opened = open_envelope(Lease, patched.lease_envelopes[1], signer=world.market.key.peer_id)
        assert new == opened
        assert new.tokens_max == request.capacity_tokens
        assert new.work_max.prefill_token_layers == 120 * 4
        assert new.work_max.decode_token_layers == 30 * 4

    async def test_two_in_a_row_and_an_epoch_of_the_heads_choice(
        self,
        world,
        router,
        plan,
        pool,
        request_,
    ):
        fifth = Provider(Span(8, 12))
        await world.publish(manifest(), pool[3], fifth)
        one = await router.replace(
            plan, frozenset({1}), without(request_, pool[1]), rows=120, epoch=4
        )
        two = await router.replace(
            one, frozenset({2}), without(request_, pool[1], pool[2]), rows=130
        )
        assert (one.epoch, two.epoch) == (4, 5)
        assert peers(two) == [pool[0].peer, pool[3].peer, fifth.peer]
        assert two.leases[:2] == one.leases[:2]
        assert two.leases[2].previous == pool[3].key.peer_id

    async def test_a_wholly_new_route(self, world, router, plan, pool, request_):
        left, right = Provider(Span(0, 6)), Provider(Span(6, 12))
        await world.publish(manifest(), left, right)
        request = without(request_, *pool[:3])
        anew = await router.replace(plan, ALL, request, rows=120)
        assert peers(anew) == [left.peer, right.peer]
        assert [lease.hop_count for lease in anew.leases] == [2, 2]
        assert (anew.session_id, anew.payer_key) == (plan.session_id, plan.payer_key)
        # and from there on
        more = Provider(Span(0, 6))
        await world.publish(manifest(), more)
        patched = await router.replace(
            anew, frozenset({0}), without(request_, *pool[:3], left), rows=121
        )
        assert peers(patched) == [more.peer, right.peer]
        assert patched.leases[1] == anew.leases[1]

    async def test_a_lost_answer_is_asked_for_again(
        self,
        world,
        router,
        plan,
        pool,
        request_,
        way,
    ):
        await world.publish(manifest(), pool[3])
        way.lose = 1
        request = without(request_, pool[1])
        patched = await router.replace(plan, frozenset({1}), request, rows=120)
        assert way.requests[-2] == way.requests[-1]
        held = (await world.http.get(
            f"/v1/sessions/{plan.session_id.hex()}",
            headers={"authorization": f"Bearer {request.api_key}"},
        )).json()["hops"]  # fmt: skip
        assert [hop["epoch"] for hop in held] == [0, 0, 0, 1]
        way.lose = 2
        with pytest.raises(MarketUnreachable):
            await router.replace(patched, frozenset({1}), request, rows=120)

    async def test_nobody_there_is_no_route(self, router, plan, pool, request_):
        with pytest.raises(NoRoute, match="4:8"):
            await router.replace(plan, frozenset({1}), without(request_, pool[1]), rows=120)
        with pytest.raises(NoRoute):
            await router.replace(plan, ALL, without(request_, pool[1]), rows=120)

    async def test_a_database_that_is_away_says_nothing_of_routes(
        self, world, router, way, plan, pool, request_
    ):
        """It may come behind a commit: the very same is asked again, and not another route."""
        await world.publish(manifest(), pool[3])
        request = without(request_, pool[1])
        way.instead = [httpx.Response(503, json=DatabaseUnavailable().body())]
        with pytest.raises(MarketRefused) as caught:
            await router.replace(plan, frozenset({1}), request, rows=120)
        assert (caught.value.code, caught.value.may_pass) == ("database_unavailable", True)
        patched = await router.replace(plan, frozenset({1}), request, rows=120)
        assert peers(patched)[1] == pool[3].peer

    async def test_its_end_is_told_until_it_is_heard(self, world, router, way, plan, request_):
        way.lose = 1
        await router.session_over(plan.session_id, request_.api_key)
        assert await router.charged(plan.session_id, request_.api_key) == (0, False)
        told = [path for path in way.requests if path.endswith("/close")]
        assert len(told) == 2
        await router.session_over(bytes(16), request_.api_key)
        assert len([path for path in way.requests if path.endswith("/close")]) == 3, "no session"

    async def test_what_the_marketplace_refuses(self, world, router, client, plan, pool, request_):
        pool[3].rates = Rates(10**12, 10**12, 0)
        await world.publish(manifest(), pool[3])
        with pytest.raises(PaymentRequired):
            await router.replace(plan, frozenset({1}), without(request_, pool[1]), rows=120)
        await router.session_over(plan.session_id, request_.api_key)
        with pytest.raises(MarketRefused) as caught:
            await router.replace(plan, frozenset({1}), request_, rows=120)
        assert (caught.value.status, caught.value.code) == (409, "conflict")


def resealed(world, change):
    """Change what the new lease says, under the marketplace's own signature."""

    def forge(answer):
        (item,) = answer["leases"]
        lease = open_envelope(Lease, base64.b64decode(item["lease"]))
        made = seal(dataclasses.replace(lease, **change), world.market.key).encode()
        item["lease"] = base64.b64encode(made).decode()

    return forge


class TestALyingMarketplace:
    async def test_a_lease_for_something_else(self, world, client, router, plan, request_):
        for change in (
            {"session_id": b"another session!"},
            {"payer_key": bytes(32)},
            {"head": KeyPair(b"x" * 32).peer_id},
            {"hop_index": 0},
            {"hop_count": 4},
            {"provider": KeyPair(b"x" * 32).peer_id},
            {"previous": KeyPair(b"x" * 32).peer_id},
            {"next": KeyPair(b"x" * 32).peer_id},
            {"span": Span(4, 7)},
            {"manifest_hash": bytes(32)},
            {"wire_dtype": WireDtype.FP32},
            {"tokens_max": 149},
        ):
            client.forge(resealed(world, change))
            with pytest.raises(VerificationError, match="differs"):
                await router.replace(plan, frozenset({1}), request_, rows=120)

    async def test_leases_that_are_not_of_the_hops_that_were_lost(
        self, client, router, plan, request_
    ):
        def move(answer):
            answer["leases"][0]["hop_index"] = 2

        for change in (lambda a: a["leases"].clear(), move, lambda a: a["hops"].pop()):
            client.forge(change)
            with pytest.raises(VerificationError, match="were lost"):
                await router.replace(plan, frozenset({1}), request_, rows=120)

    async def test_a_signature_that_is_not_the_marketplaces(self, client, plan, router, request_):
        def sign(answer):
            (item,) = answer["leases"]
            lease = open_envelope(Lease, base64.b64decode(item["lease"]))
            item["lease"] = base64.b64encode(seal(lease, KeyPair.generate()).encode()).decode()

        client.forge(sign)
        with pytest.raises(VerificationError):
            await router.replace(plan, frozenset({1}), request_, rows=120)

    async def test_a_survivor_who_was_swapped(self, client, router, plan, request_):
        """What the answer says of a hop that stays is not read: its place and lease are ours."""

        def swap(answer):
            answer["hops"][0]["peer_id"] = str(KeyPair(b"x" * 32).peer_id)

        client.forge(swap)
        patched = await router.replace(plan, frozenset({1}), request_, rows=120)
        assert patched.route.hops[0] == plan.route.hops[0]
