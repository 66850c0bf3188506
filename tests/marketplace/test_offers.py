"""Offers and placements."""

import pytest

from protocol.envelope import seal
from protocol.identity import KeyPair
from protocol.route import Span
from tests.marketplace.world import Provider, World, encoded, error_of, manifest, three_providers


async def offers(world):
    return (await world.http.get("/v1/offers")).json()["data"]


async def put(world, key, body):
    return await world.node(key, "PUT", "/v1/offers", body=body)


@pytest.fixture
async def model(world):
    await world.register(manifest())
    return manifest()


class TestPublish:
    async def test_an_offer_is_listed(self, world, model):
        provider = Provider(Span(0, 4))
        answer = await put(world, provider.key, provider.body(world, model))
        assert answer.json() == {"expires_at_s": world.clock.now + 120}
        (listed,) = await offers(world)
        assert listed["peer_id"] == provider.peer
        assert listed["model"] == "tiny"
        assert listed["span"] == {"start": 0, "end": 4}

    async def test_the_newest_sequence_stands(self, world, model):
        provider = Provider(Span(0, 4))
        first = provider.body(world, model)
        provider.span = Span(4, 8)
        second = provider.body(world, model)
        assert (await put(world, provider.key, second)).status_code == 200
        assert error_of(await put(world, provider.key, first)) == (409, "conflict")
        assert (await put(world, provider.key, second)).status_code == 200
        (listed,) = await offers(world)
        assert listed["span"] == {"start": 4, "end": 8}

    async def test_only_a_provider_speaks_for_itself(self, world, model):
        provider, other = Provider(Span(0, 4)), KeyPair.generate()
        stolen = await put(world, other, provider.body(world, model))
        assert error_of(stolen) == (403, "wrong_signer")
        forged = {"offer": encoded(seal(provider.offer(world, model), other).encode())}
        assert error_of(await put(world, other, forged)) == (403, "not_yours")
        assert await offers(world) == []

    async def test_a_damaged_signature_is_refused(self, world, model):
        provider = Provider(Span(0, 4))
        envelope = bytearray(seal(provider.offer(world, model), provider.key).encode())
        envelope[-1] ^= 1  # the signature is the last field of the canonical map
        answer = await put(world, provider.key, {"offer": encoded(bytes(envelope))})
        assert error_of(answer) == (400, "not_verified")
        assert await offers(world) == []

    @pytest.mark.parametrize("offer", ["", "!!", "AAAA", encoded(b"\xa0"), 7, None])
    async def test_bytes_that_are_no_offer_are_400(self, world, offer):
        answer = await put(world, KeyPair.generate(), {"offer": offer})
        assert error_of(answer) == (400, "malformed")

    async def test_an_expired_offer_is_refused(self, world, model):
        provider = Provider(Span(0, 4))
        body = provider.body(world, model)
        world.pass_time(121)
        assert error_of(await put(world, provider.key, body)) == (400, "not_verified")

    async def test_layers_the_model_has_not_are_refused(self, world, model):
        provider = Provider(Span(8, 13))
        answer = await put(world, provider.key, provider.body(world, model))
        assert error_of(answer) == (400, "malformed")

    @pytest.mark.parametrize(
        "change", [{"backend": ""}, {"compute_dtype": "x\n"}, {"addresses": ("a" * 257,)}]
    )
    async def test_texts_have_limits(self, world, model, change):
        provider = Provider(Span(0, 4))
        answer = await put(world, provider.key, provider.body(world, model, **change))
        assert error_of(answer) == (400, "malformed")

    async def test_an_unknown_model_is_404(self, world):
        provider = Provider(Span(0, 4))
        answer = await put(world, provider.key, provider.body(world, manifest()))
        assert error_of(answer) == (404, "model_unknown")

    async def test_a_licence_that_forbids_resale_is_named(self, world):
        forbidden = manifest("closed", resale_allowed=False)
        await world.register(forbidden)
        provider = Provider(Span(0, 4))
        answer = await put(world, provider.key, provider.body(world, forbidden))
        assert error_of(answer) == (403, "resale_forbidden")
        assert "research-only" in answer.json()["error"]["message"]

    async def test_offers_survive_a_restart(self, world, model, home):
        provider = Provider(Span(0, 4))
        await put(world, provider.key, provider.body(world, model))
        async with World(home, database_url=world.config.database_url) as again:
            assert [offer["peer_id"] for offer in await offers(again)] == [provider.peer]
            assert again.market.key.peer_id == world.market.key.peer_id


class TestWithdraw:
    async def test_a_withdrawn_offer_is_gone_and_cannot_come_back(self, world, model):
        provider = Provider(Span(0, 4))
        body = provider.body(world, model)
        await put(world, provider.key, body)
        for _ in range(2):
            answer = await world.node(provider.key, "DELETE", "/v1/offers")
            assert answer.status_code == 204
        assert await offers(world) == []
        assert error_of(await put(world, provider.key, body)) == (409, "conflict")
        assert (await put(world, provider.key, provider.body(world, model))).status_code == 200


class TestListing:
    async def test_it_goes_on_where_a_page_ends(self, world, model, monkeypatch):
        monkeypatch.setattr("marketplace.offers.service.OFFERS_PAGE", 2)
        await world.publish(model, *three_providers())
        first = (await world.http.get("/v1/offers")).json()
        rest = (await world.http.get(f"/v1/offers?after={first['next']}")).json()
        assert (len(first["data"]), len(rest["data"]), rest["next"]) == (2, 1, None)
        assert error_of(await world.http.get("/v1/offers?after=nobody")) == (400, "malformed")


class TestPlacement:
    async def place(self, world, key, model, layers_max=4):
        body = {"manifest_hash": model.manifest_hash.hex(), "layers_max": layers_max}
        answer = await world.node(key, "POST", "/v1/placements", body=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["expires_at_s"] == world.clock.now + 60
        span = answer.json()["span"]
        return Span(span["start"], span["end"])

    async def test_nodes_that_join_together_tile_the_model(self, world, model):
        keys = [KeyPair.generate() for _ in range(3)]
        spans = [await self.place(world, key, model) for key in keys]
        assert spans == [Span(0, 4), Span(4, 8), Span(8, 12)]
        assert [await self.place(world, key, model) for key in keys] == spans

    async def test_a_placement_that_led_to_nothing_is_given_again(self, world, model):
        assert await self.place(world, KeyPair.generate(), model) == Span(0, 4)
        world.pass_time(61)
        assert await self.place(world, KeyPair.generate(), model) == Span(0, 4)

    async def test_a_living_offer_counts_once_and_keeps_its_span(self, world, model):
        provider = Provider(Span(0, 4))
        assert await self.place(world, provider.key, model) == Span(0, 4)
        await world.publish(model, provider)
        world.pass_time(61)
        await world.publish(model, provider)
        assert await self.place(world, KeyPair.generate(), model) == Span(4, 8)
        assert await self.place(world, provider.key, model) == Span(0, 4)

    async def test_a_node_that_can_hold_more_is_placed_anew(self, world, model):
        key = KeyPair.generate()
        assert await self.place(world, key, model, 4) == Span(0, 4)
        assert await self.place(world, key, model, 8) == Span(0, 8)

    async def test_an_unknown_model_is_404(self, world):
        body = {"manifest_hash": "00" * 32, "layers_max": 4}
        answer = await world.node(KeyPair.generate(), "POST", "/v1/placements", body=body)
        assert error_of(answer) == (404, "model_unknown")

    @pytest.mark.parametrize("layers_max", [0, -1, 1025, "4"])
    async def test_nonsense_is_400(self, world, layers_max):
        body = {"manifest_hash": "00" * 32, "layers_max": layers_max}
        answer = await world.node(KeyPair.generate(), "POST", "/v1/placements", body=body)
        assert error_of(answer) == (400, "malformed")
