import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.weights import (
    ITEM_BYTES_MAX,
    ItemKind,
    ReplyStatus,
    WeightReply,
    WeightRequest,
    manifest_request,
)
from tests.protocol.samples import WEIGHT_MESSAGES, digest

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "weights.json").read_text())
HASH = digest("manifest")


@pytest.mark.parametrize("name", sorted(WEIGHT_MESSAGES))
def test_message_is_what_the_vector_says(name):
    message = WEIGHT_MESSAGES[name]
    assert message.encode().hex() == VECTOR[name]
    assert type(message).decode(bytes.fromhex(VECTOR[name])) == message


@pytest.mark.parametrize(
    "fields",
    [
        (ItemKind.TENSOR, "x" * 257, 0, 1, HASH),
        (ItemKind.TENSOR, "x\n", 0, 1, HASH),
        (ItemKind.TENSOR, "x", 2, 1, HASH),
        (ItemKind.TENSOR, "x", -1, 1, HASH),
        (ItemKind.TENSOR, "x", 0, ITEM_BYTES_MAX + 1, HASH),
        (ItemKind.TENSOR, "x", 0, 1, b"short"),
        (ItemKind.FILE, "config.json", 0, 1, None),
    ],
    ids=str,
)
def test_request_out_of_bounds_is_refused(fields):
    with pytest.raises(RemoteProtocolError):
        WeightRequest(*fields)


@pytest.mark.parametrize(
    "fields",
    [
        (ReplyStatus.OK, 10, 0, 11),
        (ReplyStatus.OK, 10, 5, 4),
        (ReplyStatus.OK, ITEM_BYTES_MAX + 1, 0, 1),
        (ReplyStatus.BUSY, 10, 0, 10),
    ],
    ids=str,
)
def test_reply_out_of_bounds_is_refused(fields):
    with pytest.raises(RemoteProtocolError):
        WeightReply(*fields)


def test_manifest_can_be_asked_for_by_name():
    assert manifest_request(None, "org/tiny").manifest_hash is None


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    for kind in (WeightRequest, WeightReply):
        with pytest.raises(RemoteProtocolError):
            kind.decode(data)


def test_longest_request_fits_its_limit():
    request = WeightRequest(ItemKind.TENSOR, "é" * 128, ITEM_BYTES_MAX, ITEM_BYTES_MAX, HASH)
    assert WeightRequest.decode(request.encode()) == request
