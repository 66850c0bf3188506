import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import Envelope, check_time, open_envelope, seal
from protocol.errors import (
    PieceworkError,
    RecordExpired,
    RemoteProtocolError,
    SignatureInvalid,
    VerificationError,
    WrongSigner,
)
from protocol.limits import RECORD_CLOCK_SKEW_S
from protocol.offer import Offer
from protocol.record import encode_canonical, encode_fields
from tests.protocol.samples import HEAD, NOW_S, OFFER, PROVIDER, RECORDS, announcements

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "records.json").read_text())
SEALED = seal(OFFER, PROVIDER).encode()


class TestVectors:
    @pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
    def test_every_record_is_sealed_to_the_same_bytes(self, record):
        vector = VECTORS[type(record).__name__]
        envelope = seal(record, PROVIDER)
        assert envelope.domain == vector["domain"]
        assert envelope.payload.hex() == vector["payload"]
        assert envelope.signature.hex() == vector["signature"]
        assert envelope.encode().hex() == vector["envelope"]
        assert envelope.digest.hex() == vector["digest"]
        assert open_envelope(type(record), bytes.fromhex(vector["envelope"])) == record


class TestOpenEnvelope:
    @given(announcements)
    def test_gives_back_what_was_sealed(self, record):
        sealed = seal(record, PROVIDER).encode()
        assert open_envelope(type(record), sealed, signer=PROVIDER.peer_id) == record

    @given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
    def test_refuses_any_changed_byte(self, index, difference):
        changed = bytearray(SEALED)
        changed[index] ^= difference
        with pytest.raises((RemoteProtocolError, VerificationError)):
            open_envelope(Offer, bytes(changed), signer=PROVIDER.peer_id)

    @given(st.integers(0, len(SEALED) - 1))
    def test_refuses_a_cut_or_lengthened_envelope(self, length):
        for changed in (SEALED[:length], SEALED + SEALED[: length + 1]):
            with pytest.raises(RemoteProtocolError):
                open_envelope(Offer, changed)

    @given(st.binary(max_size=300))
    def test_refuses_arbitrary_bytes(self, data):
        with pytest.raises(RemoteProtocolError):
            open_envelope(Offer, data)

    @given(
        st.text(max_size=20) | st.just(Offer.DOMAIN), st.binary(max_size=99), st.binary(max_size=70)
    )
    def test_refuses_well_formed_nonsense(self, domain, payload, signature):
        envelope = Envelope(domain, payload, PROVIDER.peer_id, signature)
        with pytest.raises((RemoteProtocolError, VerificationError)):
            open_envelope(Offer, envelope.encode())

    def test_a_signature_is_worthless_for_another_kind(self):
        for record in RECORDS:
            if isinstance(record, Offer):
                continue
            sealed = seal(record, PROVIDER)
            with pytest.raises(RemoteProtocolError, match="Expected"):
                open_envelope(Offer, sealed)
            with pytest.raises(SignatureInvalid):
                open_envelope(Offer, dataclasses.replace(sealed, domain=Offer.DOMAIN))

    def test_refuses_a_good_signature_of_somebody_else(self):
        with pytest.raises(WrongSigner):
            open_envelope(Offer, seal(OFFER, HEAD), signer=PROVIDER.peer_id)
        posing = dataclasses.replace(seal(OFFER, HEAD), signer=PROVIDER.peer_id)
        with pytest.raises(SignatureInvalid):
            open_envelope(Offer, posing)

    def test_the_signature_is_checked_before_a_field_is_read(self):
        envelope = dataclasses.replace(SEALED_NONSENSE, signature=bytes(64))
        with pytest.raises(SignatureInvalid):
            open_envelope(Offer, envelope)
        with pytest.raises(RemoteProtocolError, match="must be a map"):
            open_envelope(Offer, SEALED_NONSENSE)

    def test_refuses_a_second_spelling_even_if_it_is_signed(self):
        payload = encode_canonical(encode_fields(OFFER))
        # the head of the map with its length in a second byte: the same record, spelled longer
        respelled = bytes((0xB8, payload[0] & 0x1F)) + payload[1:]
        with pytest.raises(RemoteProtocolError, match="canonical"):
            open_envelope(Offer, _sign(respelled))


class TestCheckTime:
    def test_holds_from_issue_less_the_skew_until_expiry(self):
        check_time(OFFER, OFFER.issued_at_s - RECORD_CLOCK_SKEW_S)
        check_time(OFFER, NOW_S)
        check_time(OFFER, OFFER.expires_at_s - 1)
        for moment in (OFFER.issued_at_s - RECORD_CLOCK_SKEW_S - 1, OFFER.expires_at_s):
            with pytest.raises(RecordExpired):
                check_time(OFFER, moment)


class TestErrors:
    def test_every_refusal_is_one_of_ours(self):
        assert issubclass(RemoteProtocolError, PieceworkError)
        assert issubclass(VerificationError, PieceworkError)


def _sign(payload: bytes) -> Envelope:
    message = Offer.DOMAIN.encode() + b"\0" + payload
    return Envelope(Offer.DOMAIN, payload, PROVIDER.peer_id, PROVIDER.sign(message))


SEALED_NONSENSE = _sign(encode_canonical([1, 2, 3]))
