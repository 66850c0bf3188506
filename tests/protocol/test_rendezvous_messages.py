import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.record import encode_canonical
from protocol.relay_messages import RefusalCode, Refused, decode_answer
from protocol.rendezvous_messages import (
    DISCOVER_RECORD_BYTES_MAX,
    DISCOVER_RECORDS_MAX,
    RENDEZVOUS_BYTES_MAX,
    RENDEZVOUS_RECORD_BYTES_MAX,
    Discover,
    Discovered,
    Register,
    Registered,
    Unregister,
    decode_rendezvous_request,
)
from tests.protocol.samples import peer_ids


@pytest.mark.parametrize(
    "make",
    [
        lambda: Register("", b"record"),
        lambda: Register("a\nb", b"record"),
        lambda: Register("x" * 257, b"record"),
        lambda: Register("x", b""),
        lambda: Register("x", bytes(RENDEZVOUS_RECORD_BYTES_MAX + 1)),
        lambda: Unregister(""),
        lambda: Discover("x", 0),
        lambda: Discover("x", DISCOVER_RECORDS_MAX + 1),
        lambda: Discovered((b"",) * (DISCOVER_RECORDS_MAX + 1)),
        lambda: Discovered((bytes(DISCOVER_RECORD_BYTES_MAX + 1),)),
    ],
)
def test_message_out_of_bounds_is_refused(make):
    with pytest.raises(RemoteProtocolError):
        make()


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"discover": {}, "register": {}},
        {"list": {"namespace": "x"}},
        {7: {"namespace": "x"}},
        {"unregister": {"namespace": "x", "more": 1}},
        ["unregister"],
    ],
    ids=str,
)
def test_request_of_another_form_is_refused(value):
    with pytest.raises(RemoteProtocolError):
        decode_rendezvous_request(encode_canonical(value))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode_rendezvous_request(data)


@given(peer_ids, st.integers(1, DISCOVER_RECORDS_MAX))
def test_requests_survive_the_wire(peer, limit):
    request = Discover("piecework/home", limit, peer=peer, after=peer)
    assert decode_rendezvous_request(request.encode()) == request


@pytest.mark.parametrize("kind", [Registered, Discovered])
def test_refusal_is_an_answer_to_every_request(kind):
    refused = Refused("The limit circuits_max is reached.", RefusalCode.RESOURCE_LIMIT_EXCEEDED)
    assert decode_answer(kind, refused.encode()) == refused


def test_largest_messages_fit_their_limits():
    peer = PeerId(bytes(32))
    record = bytes(RENDEZVOUS_RECORD_BYTES_MAX)
    fitting = DISCOVER_RECORD_BYTES_MAX // RENDEZVOUS_RECORD_BYTES_MAX
    answer = Discovered((record,) * fitting, next=peer)
    assert len(answer.encode()) <= RENDEZVOUS_BYTES_MAX
    assert decode_answer(Discovered, answer.encode(), size_max=RENDEZVOUS_BYTES_MAX) == answer
    small = bytes(DISCOVER_RECORD_BYTES_MAX // DISCOVER_RECORDS_MAX)
    assert len(Discovered((small,) * DISCOVER_RECORDS_MAX, peer).encode()) <= RENDEZVOUS_BYTES_MAX
    register = Register("é" * 128, record)
    assert decode_rendezvous_request(register.encode()) == register
