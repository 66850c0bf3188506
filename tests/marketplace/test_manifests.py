"""The catalogue."""

import asyncio
import dataclasses

from protocol.identity import KeyPair
from protocol.route import Span
from tests.marketplace.world import Provider, error_of, manifest, three_providers
from tests.postgres import both_engines


async def models(world):
    return {model["id"]: model for model in (await world.http.get("/v1/models")).json()["data"]}


class TestRegister:
    async def test_again_is_no_error(self, world):
        await world.register(manifest())
        await world.register(manifest())
        assert list(await models(world)) == ["tiny"]

    @both_engines
    async def test_all_at_once_is_no_error(self, world):
        await asyncio.gather(*(world.register(manifest()) for _ in range(8)))
        assert list(await models(world)) == ["tiny"]

    async def test_the_hash_is_checked(self, world):
        path = "/v1/manifests/" + "ab" * 32
        answer = await world.node(KeyPair.generate(), "PUT", path, content=manifest().encode())
        assert error_of(answer) == (400, "malformed")
        assert await models(world) == {}

    async def test_bytes_that_are_no_manifest_are_400(self, world):
        for path, content in (
            ("/v1/manifests/" + "ab" * 32, b"\xff\x00"),
            ("/v1/manifests/xyz", manifest().encode()),
        ):
            answer = await world.node(KeyPair.generate(), "PUT", path, content=content)
            assert error_of(answer) == (400, "malformed")

    async def test_texts_have_limits(self, world):
        for change in ({"family": "f" * 129}, {"licence": "l" * 257}, {"name": "a\nb"}):
            model = dataclasses.replace(manifest(), **change)
            path = f"/v1/manifests/{model.manifest_hash.hex()}"
            answer = await world.node(KeyPair.generate(), "PUT", path, content=model.encode())
            assert error_of(answer) == (400, "malformed")

    async def test_an_unsigned_one_is_refused(self, world):
        path = f"/v1/manifests/{manifest().manifest_hash.hex()}"
        answer = await world.http.put(path, content=manifest().encode())
        assert error_of(answer) == (401, "request_unsigned")

    async def test_the_first_keeps_a_name(self, world):
        first, second = manifest(), manifest(layers=24)
        await world.register(first)
        await world.register(second)
        listed = await models(world)
        later = f"tiny@{second.manifest_hash.hex()[:12]}"
        assert listed["tiny"]["manifest_hash"] == first.manifest_hash.hex()
        assert listed[later]["manifest_hash"] == second.manifest_hash.hex()

    async def test_a_name_that_looks_like_a_hash_is_no_trap(self, world):
        victim = manifest()
        await world.register(victim)
        trap = manifest(victim.manifest_hash.hex(), layers=3)
        await world.register(trap)
        assert victim.manifest_hash.hex() not in await models(world)


class TestCatalogue:
    async def test_coverage_and_price_follow_the_offers(self, world):
        model, providers = manifest(), three_providers()
        await world.register(model)
        await world.publish(model, *providers[:2])
        entry = (await models(world))["tiny"]
        assert (entry["available"], entry["price"]) == (False, None)
        assert entry["coverage"] == [1] * 8 + [0] * 4

        await world.publish(model, providers[2])
        entry = (await models(world))["tiny"]
        assert entry["available"]
        # 12 layers; 64 · 2 bytes leave each of 3 hops a token; the fee of 5 % on top
        sent = 3 * (1_000_000 * 128 * 1000 // 2**20)
        assert (
            entry["price"]["prompt_nanos_per_million_tokens"]
            == (12 * 2_000_000 + sent) * 105 // 100
        )
        assert entry["price"]["completion_nanos_per_million_tokens"] > 12 * 6_000_000

    async def test_offers_that_end_take_the_price_away(self, world):
        model = manifest()
        await world.register(model)
        await world.publish(model, Provider(Span(0, 12)))
        assert (await models(world))["tiny"]["available"]
        world.pass_time(121)
        assert not (await models(world))["tiny"]["available"]

    async def test_a_model_that_may_not_be_sold_is_not_listed(self, world):
        await world.register(manifest(resale_allowed=False))
        assert await models(world) == {}
