"""The live index, and routes over it."""

import dataclasses

from marketplace.matching import OfferIndex, search_route
from marketplace.pricing import WorkPlan, hop_cost, layer_cost, price_list, price_of
from protocol.identity import KeyPair
from protocol.money import MIB, Rates, amount_nanos, with_fee_nanos, work_bound
from protocol.offer import Offer
from protocol.route import Span
from protocol.tensor import WireDtype

PLAN = WorkPlan(12, 64, 100, 50, WireDtype.BF16)
RATES = Rates(2_000_000, 6_000_000, 1_000)


WHOLE = Span(0, 12)


def offer(span=WHOLE, *, key=None, sequence=1, model=b"m" * 32, rates=RATES, **changes):
    made = Offer(
        provider=(key or KeyPair.generate()).peer_id,
        sequence=sequence,
        addresses=("/ip4/192.0.2.1/udp/4001/quic-v1",),
        model="tiny",
        manifest_hash=model,
        span=span,
        backend="fake",
        compute_dtype="fp32",
        rates=rates,
        sessions_max=4,
        kv_tokens=1000,
        issued_at_s=1000,
        expires_at_s=1100,
    )
    return dataclasses.replace(made, **changes)


class TestOfferIndex:
    def test_newest_of_a_provider_stands_also_for_another_model(self):
        key, index = KeyPair.generate(), OfferIndex()
        old, new = offer(key=key), offer(key=key, sequence=2, model=b"n" * 32)
        for one in (old, new, old):
            index.put(one)
        assert index.of_model(old.manifest_hash, 1000) == []
        assert index.of_model(new.manifest_hash, 1000) == [new]
        assert index.get(key.peer_id, 1000) == new

    def test_what_expired_is_not_alive_and_then_forgotten(self):
        index, one = OfferIndex(), offer()
        index.put(one)
        assert index.all(1099) == [one]
        assert index.all(1100) == []
        assert index.get(one.provider, 1100) is None
        index.forget_expired(1100)
        assert index.all(1000) == []

    def test_removing_is_no_error_twice(self):
        index, one = OfferIndex(), offer()
        index.put(one)
        index.remove(one.provider)
        index.remove(one.provider)
        assert index.all(1000) == []

    def test_order_is_by_provider(self):
        index = OfferIndex()
        for _ in range(5):
            index.put(offer())
        providers = [one.provider for one in index.all(1000)]
        assert providers == sorted(providers)


class TestSearchRoute:
    def test_part_of_a_span_is_used(self):
        dear, cheap = offer(rates=Rates(10**9, 10**9, 0)), offer(Span(0, 9))
        route = search_route([dear, cheap], PLAN)
        assert [(hop.offer, hop.span) for hop in route] == [
            (cheap, Span(0, 9)),
            (dear, Span(9, 12)),
        ]

    def test_a_busy_provider_is_dearer(self):
        twins = [offer(), offer()]
        for busy, idle in (twins, twins[::-1]):
            (hop,) = search_route(twins, PLAN, open_sessions={busy.provider: 1})
            assert hop.offer is idle

    def test_a_hop_is_saved_where_it_costs_little(self):
        whole = offer(rates=Rates(2_000_001, 6_000_001, 1_000))
        halves = [offer(Span(0, 6)), offer(Span(6, 12))]
        assert [hop.offer for hop in search_route([*halves, whole], PLAN)] == [whole]

    def test_too_little_kv_is_left_out(self):
        assert search_route([offer(kv_tokens=149)], PLAN) is None
        assert search_route([offer(kv_tokens=150)], PLAN) is not None


class TestPricing:
    def test_search_and_charge_agree(self):
        bound = work_bound(layers=5, prompt_tokens=100, output_tokens=50, bytes_per_token=128)
        cost = 5 * layer_cost(RATES, PLAN) + hop_cost(RATES, PLAN)
        assert cost // (1_000_000 * MIB) == amount_nanos(bound, RATES)

    def test_a_price_is_the_sum_of_its_hops_and_the_fee(self):
        hops = [(Span(0, 5), RATES), (Span(5, 12), RATES)]
        earned = 0
        for span, rates in hops:
            bound = work_bound(
                layers=len(span), prompt_tokens=100, output_tokens=50, bytes_per_token=128
            )
            earned += amount_nanos(bound, rates)
        assert price_of(hops, PLAN, 500) == with_fee_nanos(earned, 500)

    def test_a_price_list_is_per_million(self):
        listed = price_list([(Span(0, 12), Rates(2_000_000, 6_000_000, 0))], PLAN, 0)
        assert listed.prompt_nanos_per_million_tokens == 24_000_000
        assert listed.completion_nanos_per_million_tokens == 72_000_000
