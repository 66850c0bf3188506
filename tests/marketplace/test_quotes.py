"""Quotes."""

import dataclasses

import pytest

from protocol.money import Rates, amount_nanos, with_fee_nanos, work_bound
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.marketplace.world import RATES, Provider, error_of, manifest, three_providers

DEAR = Rates(4_000_000, 12_000_000, 2_000)


@pytest.fixture
async def buyer(world):
    return await world.buyer(dollars=1)


@pytest.fixture
async def model(world):
    await world.register(manifest())
    return manifest()


async def test_price_is_the_bound_of_every_hop_and_the_fee(world, buyer, model):
    providers = three_providers()
    await world.publish(model, *providers)
    quote = (await world.quote(buyer)).json()
    bound = work_bound(layers=4, prompt_tokens=100, output_tokens=50, bytes_per_token=128)
    assert quote["amount_nanos_max"] == with_fee_nanos(3 * amount_nanos(bound, RATES), 500)
    assert quote["expires_at_s"] == world.clock.now + 60
    assert quote["wire_dtype"] == "bf16"
    for hop, provider in zip(quote["hops"], providers, strict=True):
        assert hop["peer_id"] == provider.peer
        assert hop["span"] == {"start": provider.span.start, "end": provider.span.end}
        assert hop["work_max"] == dataclasses.asdict(bound)
        assert hop["rates"] == dataclasses.asdict(RATES)
        assert hop["addresses"]
        assert (hop["backend"], hop["compute_dtype"]) == ("fake", "fp32")
    assert (await world.balance(buyer))["held_nanos"] == 0


async def test_wire_dtype_decides_the_bytes(world, buyer, model):
    await world.publish(model, Provider(Span(0, 12)))
    quotes = [(await world.quote(buyer, wire_dtype=w)).json() for w in WireDtype]
    assert [quote["wire_dtype"] for quote in quotes] == list(WireDtype)
    sizes = [quote["hops"][0]["work_max"]["bytes_out"] for quote in quotes]
    assert sizes == [150 * 256, 150 * 128, 150 * 68, 150 * 68]


async def test_a_model_may_be_named_by_its_hash(world, buyer, model):
    await world.publish(model, Provider(Span(0, 12)))
    quote = (await world.quote(buyer, model=model.manifest_hash.hex())).json()
    assert quote["model"] == "tiny"


async def test_the_cheaper_provider_is_taken(world, buyer, model):
    dear, cheap = Provider(Span(0, 12), rates=DEAR), Provider(Span(0, 12))
    await world.publish(model, dear, cheap)
    quote = (await world.quote(buyer)).json()
    assert [hop["peer_id"] for hop in quote["hops"]] == [cheap.peer]


async def test_of_equals_the_idle_is_taken(world, buyer, model):
    twins = [Provider(Span(0, 12)), Provider(Span(0, 12))]
    await world.publish(model, *twins)
    taken = []
    for _ in range(4):
        quote = (await world.quote(buyer)).json()
        await world.lease(buyer, quote)
        taken.append(quote["hops"][0]["peer_id"])
    assert sorted(taken) == sorted([twins[0].peer, twins[1].peer] * 2)


class TestChoice:
    async def test_denied_and_not_allowed_providers_are_left_out(self, world, buyer, model):
        dear, cheap = Provider(Span(0, 12), rates=DEAR), Provider(Span(0, 12))
        await world.publish(model, dear, cheap)
        for wish in ({"allow": [dear.peer]}, {"deny": [cheap.peer]}):
            quote = (await world.quote(buyer, **wish)).json()
            assert [hop["peer_id"] for hop in quote["hops"]] == [dear.peer]

    async def test_nobody_left_is_503(self, world, buyer, model):
        only = Provider(Span(0, 12))
        await world.publish(model, only)
        answer = await world.quote(buyer, deny=[only.peer])
        assert error_of(answer) == (503, "no_capacity")

    async def test_a_price_above_the_buyers_is_refused_and_told(self, world, buyer, model):
        await world.publish(model, Provider(Span(0, 12)))
        price = (await world.quote(buyer)).json()["amount_nanos_max"]
        exact = await world.quote(buyer, amount_nanos_max=price)
        assert exact.json()["amount_nanos_max"] == price
        answer = await world.quote(buyer, amount_nanos_max=price - 1)
        assert error_of(answer) == (402, "max_price")
        assert answer.json()["error"]["details"]["amount_nanos"] == price


class TestRefusals:
    async def test_missing_layers_are_named(self, world, buyer, model):
        await world.publish(model, Provider(Span(0, 4)), Provider(Span(6, 9)))
        answer = await world.quote(buyer)
        assert error_of(answer) == (503, "no_capacity")
        assert answer.json()["error"]["details"]["missing_spans"] == ["4:6", "9:12"]
        assert "4:6" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) > 0

    async def test_a_provider_with_too_little_kv_does_not_count(self, world, buyer, model):
        await world.publish(model, Provider(Span(0, 12), changes={"kv_tokens": 149}))
        answer = await world.quote(buyer)
        assert error_of(answer) == (503, "no_capacity")
        assert answer.json()["error"]["details"]["missing_spans"] == ["0:12"]

    async def test_an_expired_offer_does_not_count(self, world, buyer, model):
        await world.publish(model, Provider(Span(0, 12)))
        world.pass_time(121)
        assert error_of(await world.quote(buyer)) == (503, "no_capacity")

    async def test_unknown_model(self, world, buyer):
        for name in ("nothing", "00" * 32):
            assert error_of(await world.quote(buyer, model=name)) == (404, "model_unknown")

    async def test_too_long_a_context(self, world, buyer, model):
        await world.publish(model, Provider(Span(0, 12)))
        answer = await world.quote(buyer, prompt_tokens=4000, max_tokens=97)
        assert error_of(answer) == (400, "context_too_long")

    async def test_a_licence_that_forbids_resale(self, world, buyer):
        await world.register(manifest("closed", resale_allowed=False))
        assert error_of(await world.quote(buyer, model="closed")) == (403, "resale_forbidden")

    @pytest.mark.parametrize(
        "wish",
        [
            {"prompt_tokens": 0},
            {"max_tokens": 0},
            {"prompt_tokens": 2**40},
            {"sealed": False},
            {"wire_dtype": "fp8"},
            {"allow": []},
            {"allow": ["somebody"]},
            {"amount_nanos_max": -1},
            {"amount_nanos_max": 0.5},
            {"region": "eu"},
        ],
    )
    async def test_what_cannot_be_is_refused_not_ignored(self, world, buyer, wish):
        assert error_of(await world.quote(buyer, **wish)) == (400, "malformed")

    async def test_without_a_key(self, world, model):
        body = {"model": "tiny", "prompt_tokens": 1, "max_tokens": 1}
        assert error_of(await world.http.post("/v1/quotes", json=body)) == (401, "key_invalid")
