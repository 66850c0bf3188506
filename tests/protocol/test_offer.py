import dataclasses

import pytest
from hypothesis import given

from protocol.errors import RemoteProtocolError
from protocol.offer import OFFER_LIFETIME_MAX_S, Offer
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from protocol.route import Span
from tests.protocol.samples import NOW_S, OFFER, offers


@given(offers)
def test_round_trips(offer):
    data = encode_canonical(encode_fields(offer))
    assert decode_fields(Offer, decode_canonical(data)) == offer


@pytest.mark.parametrize(
    "change",
    [
        {"span": Span(3, 3)},
        {"expires_at_s": NOW_S},
        {"expires_at_s": NOW_S + OFFER_LIFETIME_MAX_S + 1},
        {"sessions_max": 0},
        {"kv_tokens": 0},
        {"sequence": -1},
        {"addresses": ()},
        {"addresses": ("/ip4/203.0.113.7",) * 17},
    ],
    ids=str,
)
def test_refuses_an_offer_that_cannot_be_kept(change):
    with pytest.raises(RemoteProtocolError):
        dataclasses.replace(OFFER, **change)
