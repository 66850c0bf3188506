"""Every answer that a node reads of a marketplace: taken where it fits, else one clear error."""

import base64
import contextlib
import copy
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import MarketUnreachable
from node.market_client import MarketClient
from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.identity import KeyPair
from protocol.route import Span

KEY = KeyPair(b"n" * 32)
PEER = str(KEY.peer_id)
SPAN = {"start": 0, "end": 4}
LEASE = base64.b64encode(b"lease").decode()
HOP = {"peer_id": PEER, "span": SPAN, "addresses": ["/ip4/127.0.0.1"], "backend": "torch"}
PRICE = {"prompt_nanos_per_million_tokens": 1, "completion_nanos_per_million_tokens": 2}
MODEL = {"id": "a/b", "manifest_hash": "00" * 32, "available": True, "price": PRICE}

Call = Callable[[MarketClient], Awaitable[Any]]

CALLS: dict[str, tuple[Call, dict[str, Any]]] = {
    "terms": (
        lambda client: client.terms(),
        {
            "network": "local",
            "peer_id": PEER,
            "fee_basis_points": 500,
            "window_tokens": 64,
            "credit_windows": 2,
            "settlement_window_s": 10,
            "relays": ["/ip4/127.0.0.1"],
        },
    ),
    "place": (lambda client: client.place(bytes(32), 4), {"span": SPAN}),
    "hand_in": (
        lambda client: client.hand_in([b"receipt"]),
        {
            "results": [{"status": "accepted", "reason": "", "leaf_index": 7}],
            "acknowledgement": LEASE,
        },
    ),
    "earnings": (lambda client: client.earnings(), {"earned_nanos": 5}),
    "quote": (lambda client: client.quote({}, "key"), {"quote_id": "00" * 16, "hops": [HOP]}),
    "lease": (lambda client: client.lease({}, "key"), {"leases": [LEASE]}),
    "replacements": (
        lambda client: client.replacements("00" * 16, {}, "key"),
        {"epoch": 1, "hops": [HOP], "leases": [{"hop_index": 0, "lease": LEASE}]},
    ),
    "extensions": (
        lambda client: client.extensions("00" * 16, {}, "key"),
        {"epoch": 0, "leases": [{"lease": LEASE}]},
    ),
    "session": (
        lambda client: client.session("00" * 16, "key"),
        {"charged_nanos": 5, "status": "settled"},
    ),
    "models": (lambda client: client.models(), {"data": [MODEL]}),
    "offers": (
        lambda client: client.offers(),
        {"data": [{**HOP, "model": "a/b", "manifest_hash": "00" * 32}]},
    ),
    "create_account": (lambda client: client.create_account("me"), {"api_key": "pw_live_x"}),
    "account": (
        lambda client: client.account("key"),
        {"account_id": "a", "name": "me", "balance": {"available_nanos": 5}},
    ),
}
"""How each is asked, and the least that is an answer to it."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


async def ask(call: Call, answer: object) -> Any:
    """What the client makes of a marketplace's answer."""
    content = json.dumps(answer).encode()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    async with MarketClient("http://market", KEY, transport=transport) as client:
        return await call(client)


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a value, itself not."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(inner, (*path, key))


def changed(answer: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    """The answer with `value` at that place; without the field, for GONE."""
    made = copy.deepcopy(answer)
    inner: Any = made
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE and isinstance(inner, dict):
        del inner[path[-1]]
    else:
        inner[path[-1]] = 1.5 if value is GONE else value
    return made


GONE = object()
MAY_BE_NULL = {("data", 0, "price"), ("results", 0, "leaf_index")}


@pytest.mark.parametrize("name", CALLS)
async def test_the_least_answer_is_enough(name):
    call, answer = CALLS[name]
    await ask(call, answer)
    await ask(call, {**answer, "a_field_of_a_later_version": {"a": 1}})


@pytest.mark.parametrize("value", [GONE, [{}], {"a": True}], ids=["gone", "list", "object"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_part_that_is_not_there_or_of_another_kind_is_named(name, value):
    call, answer = CALLS[name]
    for path in places(answer):
        with pytest.raises(MarketUnreachable, match="without a fit value at") as caught:
            await ask(call, changed(answer, path, value))
        assert str(path[0]) in caught.value.message


@pytest.mark.parametrize("name", CALLS)
async def test_null_is_no_value_but_where_it_may_be(name):
    call, answer = CALLS[name]
    for path in places(answer):
        with contextlib.nullcontext() if path in MAY_BE_NULL else pytest.raises(MarketUnreachable):
            await ask(call, changed(answer, path, None))


@pytest.mark.parametrize("name", CALLS)
async def test_an_empty_object_is_no_answer(name):
    with pytest.raises(MarketUnreachable):
        await ask(CALLS[name][0], {})


@given(name=st.sampled_from(sorted(CALLS)), data=st.data())
async def test_nothing_that_json_can_say_is_another_error(name, data):
    call, answer = CALLS[name]
    path = data.draw(st.sampled_from(sorted(places(answer), key=str)))
    value = data.draw(JSON)
    bad = data.draw(st.sampled_from([changed(answer, path, value), value]))
    with contextlib.suppress(PieceworkError):
        await ask(call, bad)


async def test_a_key_that_is_none():
    with pytest.raises(MarketUnreachable, match="shows no key"):
        await ask(CALLS["terms"][0], {**CALLS["terms"][1], "peer_id": "12D3nobody"})


async def test_a_span_that_is_none():
    assert await ask(CALLS["place"][0], {"span": SPAN}) == Span(0, 4)
    for span in ({"start": 4, "end": 0}, {"start": 0, "end": 10**9}, {"start": -1, "end": 1}):
        with pytest.raises(RemoteProtocolError):
            await ask(CALLS["place"][0], {"span": span})


async def test_results_for_other_receipts():
    call, answer = CALLS["hand_in"]
    for results in ([], answer["results"] * 2):
        with pytest.raises(RemoteProtocolError, match="does not fit"):
            await ask(call, {**answer, "results": results})


async def test_a_page_is_held_to_the_shape_that_is_given():
    shape = {"machines": [{}]}

    async def page(client: MarketClient) -> dict[str, Any]:
        return await client.ask("/v1/earnings", shape)

    assert await ask(page, {"machines": [{"a": 1}]}) == {"machines": [{"a": 1}]}
    with pytest.raises(MarketUnreachable, match=r"machines\[0\]"):
        await ask(page, {"machines": ["a"]})


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.session_over("00" * 16, "key"),
        lambda client: client.withdraw_offers(),
        lambda client: client.cosign(1, "line"),
    ],
    ids=["session_over", "withdraw_offers", "cosign"],
)
async def test_where_nothing_is_read_nothing_need_come(call):
    transport = httpx.MockTransport(lambda _: httpx.Response(204))
    async with MarketClient("http://market", KEY, transport=transport) as client:
        await call(client)
