import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.limits import HIDDEN_SIZE_MAX, STEP_TOKENS_MAX
from protocol.tensor import (
    LINK_HASH_START,
    TensorHeader,
    WireDtype,
    extend_link_hash,
    payload_hash,
)

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "links.json").read_text())


class TestTensorHeader:
    @given(st.integers(-1, STEP_TOKENS_MAX + 1), st.integers(-1, HIDDEN_SIZE_MAX + 1))
    def test_size_follows_from_shape_and_dtype_or_is_refused(self, tokens, hidden_size):
        if 0 <= tokens <= STEP_TOKENS_MAX and 0 < hidden_size <= HIDDEN_SIZE_MAX:
            full = TensorHeader(tokens, hidden_size, WireDtype.FP32)
            half = TensorHeader(tokens, hidden_size, WireDtype.BF16)
            assert full.size_bytes == 2 * half.size_bytes == 4 * tokens * hidden_size
            blocks = -(-hidden_size // 32)
            for dtype in (WireDtype.INT8B32, WireDtype.INT8B32H):
                size_bytes = TensorHeader(tokens, hidden_size, dtype).size_bytes
                assert size_bytes == tokens * (hidden_size + 2 * blocks)
        else:
            with pytest.raises(RemoteProtocolError):
                TensorHeader(tokens, hidden_size, WireDtype.FP32)


class TestLinkHash:
    def test_is_what_the_vector_says(self):
        link_hash = LINK_HASH_START
        for payload, expected in zip(VECTOR["payloads"], VECTOR["hashes"], strict=True):
            link_hash = extend_link_hash(link_hash, payload_hash(bytes.fromhex(payload)))
            assert link_hash.hex() == expected

    @given(st.lists(st.binary(max_size=20), max_size=4), st.lists(st.binary(max_size=20)))
    def test_tells_different_links_apart(self, first, second):
        assert (_link_hash(first) == _link_hash(second)) == (first == second)

    def test_takes_a_view_as_it_takes_bytes(self):
        assert payload_hash(memoryview(b"payload")) == payload_hash(b"payload")


def _link_hash(payloads: list[bytes]) -> bytes:
    link_hash = LINK_HASH_START
    for payload in payloads:
        link_hash = extend_link_hash(link_hash, payload_hash(payload))
    return link_hash
