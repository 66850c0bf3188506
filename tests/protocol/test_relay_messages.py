import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.relay_messages import (
    FORWARD_BYTES_MAX,
    ForwardGrant,
    ForwardRequest,
    RefusalCode,
    Refused,
    Where,
    decode_answer,
)
from protocol.rendezvous_messages import (
    Discover,
    Register,
    Unregister,
    decode_rendezvous_request,
)
from tests.protocol.samples import RELAY_MESSAGES, peer_ids

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "relay.json").read_text())
GRANT = RELAY_MESSAGES["forward_grant"]


def decode(message, data):
    """As the one who gets such a message reads it."""
    match message:
        case ForwardRequest():
            return ForwardRequest.decode(data)
        case Register() | Unregister() | Discover():
            return decode_rendezvous_request(data)
        case Refused():
            return decode_answer(ForwardGrant, data)
    return decode_answer(type(message), data)


@pytest.mark.parametrize("name", sorted(RELAY_MESSAGES))
def test_message_is_what_the_vector_says(name):
    message = RELAY_MESSAGES[name]
    assert message.encode().hex() == VECTOR[name]
    assert decode(message, bytes.fromhex(VECTOR[name])) == message


@pytest.mark.parametrize(
    "change",
    [
        {"circuit": b"short"},
        {"secret_ours": b"short"},
        {"secret_theirs": bytes(33)},
        {"host": "x" * 257},
        {"ports": ()},
        {"ports": (0,)},
        {"ports": (65_536,)},
        {"ports": tuple(range(1, 10))},
        {"expires_at_s": -1},
    ],
    ids=str,
)
def test_grant_out_of_bounds_is_refused(change):
    with pytest.raises(RemoteProtocolError):
        dataclasses.replace(GRANT, **change)


@pytest.mark.parametrize(
    ("host", "ports"), [("relay.example", (1,)), ("0.0.0.0", (1,)), ("", ()), ("", (65_536,))]
)
def test_where_out_of_bounds_is_refused(host, ports):
    with pytest.raises(RemoteProtocolError):
        Where(host, ports)


def test_grant_shows_no_secret_in_logs():
    assert GRANT.secret_ours.hex() not in repr(GRANT)
    assert repr(GRANT.secret_theirs) not in repr(GRANT)


def test_reason_is_cut_to_what_fits():
    with pytest.raises(RemoteProtocolError):
        Refused("x" * 257, RefusalCode.NO_RESERVATION)
    refused = Refused.because("é" * 200, RefusalCode.MALFORMED_MESSAGE)
    assert decode_answer(ForwardGrant, refused.encode()).error == "é" * 128


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(RemoteProtocolError):
        ForwardRequest.decode(data)
    for kind in (ForwardGrant, Where):
        with pytest.raises(RemoteProtocolError):
            decode_answer(kind, data)


@given(peer_ids)
def test_request_survives_the_wire(peer):
    assert ForwardRequest.decode(ForwardRequest(peer).encode()) == ForwardRequest(peer)


def test_largest_grant_fits_its_limit():
    grant = dataclasses.replace(
        GRANT,
        host=":".join(["ffe8"] * 8).replace("ffe8", "2fff"),
        ports=(65_535,) * 8,
        expires_at_s=2**40,
    )
    assert len(grant.encode()) <= FORWARD_BYTES_MAX
    with pytest.raises(RemoteProtocolError):
        decode_answer(ForwardGrant, bytes(FORWARD_BYTES_MAX + 1))
