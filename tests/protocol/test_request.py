import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RecordExpired, RemoteProtocolError, SignatureInvalid, VerificationError
from protocol.request import (
    NONCE_HEADER,
    PEER_HEADER,
    REQUEST_AGE_MAX_S,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    sign_request,
    verify_request,
)
from tests.protocol.samples import HEAD, NOW_S, PROVIDER

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "requests.json").read_text())
HEADERS = sign_request(PROVIDER, "POST", "/v1/offers", b"body", now_s=NOW_S)


def verify(headers, method="POST", target="/v1/offers", body=b"body", now_s=NOW_S):
    return verify_request(headers, method, target, body, now_s=now_s)


class TestVerifyRequest:
    def test_accepts_the_vector(self):
        signed = verify_request(
            VECTOR["headers"],
            VECTOR["method"],
            VECTOR["target"],
            VECTOR["body"].encode(),
            now_s=NOW_S,
        )
        assert signed.peer_id == PROVIDER.peer_id
        assert signed.timestamp_s == NOW_S
        assert signed.nonce == VECTOR["headers"][NONCE_HEADER]

    def test_refuses_another_method_target_or_body(self):
        assert verify(HEADERS, method="post").peer_id == PROVIDER.peer_id
        for change in ({"method": "GET"}, {"target": "/v1/offers?all=1"}, {"body": b"other"}):
            with pytest.raises(SignatureInvalid):
                verify(HEADERS, **change)

    @pytest.mark.parametrize("name", [PEER_HEADER, TIMESTAMP_HEADER, NONCE_HEADER])
    def test_refuses_a_changed_header(self, name):
        changed = {
            PEER_HEADER: str(HEAD.peer_id),
            TIMESTAMP_HEADER: str(NOW_S + 1),
            NONCE_HEADER: "0" * 32,
        }
        with pytest.raises(SignatureInvalid):
            verify(HEADERS | {name: changed[name]})

    @pytest.mark.parametrize("name", sorted(HEADERS))
    def test_refuses_a_missing_header(self, name):
        less = {key: value for key, value in HEADERS.items() if key != name}
        with pytest.raises(RemoteProtocolError):
            verify(less)

    @given(st.sampled_from(sorted(HEADERS)), st.text(max_size=130))
    def test_any_header_is_refused_not_crashed_on(self, name, value):
        try:
            verify(HEADERS | {name: value})
        except (RemoteProtocolError, VerificationError):
            return
        # bytes.fromhex takes capitals and spaces: the same signature, not another one
        assert name == SIGNATURE_HEADER or HEADERS[name] == value

    def test_is_good_for_a_minute_either_way(self):
        verify(HEADERS, now_s=NOW_S + REQUEST_AGE_MAX_S)
        verify(HEADERS, now_s=NOW_S - REQUEST_AGE_MAX_S)
        for now_s in (NOW_S + REQUEST_AGE_MAX_S + 1, NOW_S - REQUEST_AGE_MAX_S - 1):
            with pytest.raises(RecordExpired):
                verify(HEADERS, now_s=now_s)

    def test_every_request_has_its_own_nonce(self):
        again = sign_request(PROVIDER, "POST", "/v1/offers", b"body", now_s=NOW_S)
        assert again[NONCE_HEADER] != HEADERS[NONCE_HEADER]
