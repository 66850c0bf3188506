"""Requests that a node signs."""

import pytest

from protocol.identity import KeyPair
from protocol.request import NONCE_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from tests.marketplace.world import error_of

PATH = "/v1/provider"


async def test_a_signed_request_is_taken(world):
    key = KeyPair.generate()
    answer = await world.node(key, "GET", PATH)
    assert answer.json() == {"peer_id": str(key.peer_id), "earned_nanos": 0, "sessions": []}


async def test_the_same_request_again_is_a_replay(world):
    headers = world.signed(KeyPair.generate(), "GET", PATH)
    assert (await world.http.get(PATH, headers=headers)).status_code == 200
    assert error_of(await world.http.get(PATH, headers=headers)) == (401, "request_replayed")


async def test_a_refused_request_cannot_be_played_again_either(world):
    key = KeyPair.generate()
    headers = world.signed(key, "PUT", "/v1/manifests/" + "0" * 64, b"nonsense")
    path = "/v1/manifests/" + "0" * 64
    first = await world.http.put(path, content=b"nonsense", headers=headers)
    assert error_of(first) == (400, "malformed")
    again = await world.http.put(path, content=b"nonsense", headers=headers)
    assert error_of(again) == (401, "request_replayed")


async def test_a_nonce_is_remembered_as_long_as_its_time_is_believed(world):
    headers = world.signed(KeyPair.generate(), "GET", PATH)
    assert (await world.http.get(PATH, headers=headers)).status_code == 200
    world.pass_time(59)
    world.worker.do("forget")
    assert error_of(await world.http.get(PATH, headers=headers)) == (401, "request_replayed")
    world.pass_time(100)
    world.worker.do("forget")
    assert error_of(await world.http.get(PATH, headers=headers)) == (401, "request_unsigned")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (SIGNATURE_HEADER, "00" * 64),
        (SIGNATURE_HEADER, "zz"),
        (NONCE_HEADER, "0" * 32),
        (TIMESTAMP_HEADER, "1"),
        (TIMESTAMP_HEADER, "soon"),
    ],
)
async def test_a_forged_header_is_refused(world, header, value):
    headers = world.signed(KeyPair.generate(), "GET", PATH) | {header: value}
    assert error_of(await world.http.get(PATH, headers=headers)) == (401, "request_unsigned")


async def test_no_signature_is_refused(world):
    assert error_of(await world.http.get(PATH)) == (401, "request_unsigned")


async def test_a_signature_covers_method_path_query_and_body(world):
    key = KeyPair.generate()
    good = world.signed(key, "GET", PATH)
    for method, path, content in (
        ("GET", f"{PATH}?x=1", b""),
        ("DELETE", "/v1/offers", b""),
        ("GET", PATH, b"body"),
    ):
        answer = await world.http.request(method, path, headers=good, content=content)
        assert error_of(answer) == (401, "request_unsigned")
    query = f"{PATH}?x=1"
    signed = world.signed(key, "GET", query)
    assert (await world.http.get(query, headers=signed)).status_code == 200


async def test_an_old_request_is_refused(world):
    headers = world.signed(KeyPair.generate(), "GET", PATH)
    world.pass_time(61)
    assert error_of(await world.http.get(PATH, headers=headers)) == (401, "request_unsigned")
