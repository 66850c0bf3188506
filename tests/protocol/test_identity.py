import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError, SignatureInvalid
from protocol.identity import KeyPair, PeerId, verify
from tests.protocol.samples import PROVIDER, peer_ids, seeds

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "identities.json").read_text())
# libp2p peer-ids spec, "Test vectors", Ed25519: private and public key as protobuf
SPEC_PRIVATE = (
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SPEC_PUBLIC = "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
SPEC_PEER_ID = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"
# libp2p TLS spec, test vector 1: a certificate of this peer carries this key
TLS_PEER_ID = "12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv"
TLS_PUBLIC_KEY = "a77f1d92fedb59dddaea5a1c4abd1ac2fbde7d7b879ed364501809923d7c11b9"


class TestPeerId:
    def test_is_what_the_libp2p_spec_says(self):
        key = KeyPair(bytes.fromhex(SPEC_PRIVATE)[4:36])
        assert key.peer_id.public_key == bytes.fromhex(SPEC_PUBLIC)[4:]
        assert str(key.peer_id) == SPEC_PEER_ID
        assert PeerId.from_text(TLS_PEER_ID).public_key.hex() == TLS_PUBLIC_KEY

    @given(peer_ids)
    def test_text_round_trips_and_names_the_key_type(self, peer_id):
        assert PeerId.from_text(str(peer_id)) == peer_id
        assert str(peer_id).startswith("12D3KooW")
        assert str(peer_id).endswith(peer_id.short)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "12D3KooW",
            SPEC_PEER_ID[:-1],
            SPEC_PEER_ID + "1",
            "1" + SPEC_PEER_ID,
            SPEC_PEER_ID.replace("o", "0"),
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # an RSA key's id, from the spec
            "1" * 65,
        ],
    )
    def test_refuses_what_is_not_an_ed25519_id(self, text):
        with pytest.raises(RemoteProtocolError):
            PeerId.from_text(text)

    @given(st.text())
    def test_any_text_parses_to_itself_or_is_refused(self, text):
        with contextlib.suppress(RemoteProtocolError):
            assert str(PeerId.from_text(text)) == text

    @given(st.binary().filter(lambda key: len(key) != 32))
    def test_refuses_keys_of_another_length(self, key):
        with pytest.raises(RemoteProtocolError):
            PeerId(key)


class TestSigning:
    @pytest.mark.parametrize("name", sorted(VECTORS))
    def test_is_what_the_vector_says(self, name):
        vector = VECTORS[name]
        key = KeyPair(bytes.fromhex(vector["seed"]))
        assert key.peer_id.public_key.hex() == vector["public_key"]
        assert str(key.peer_id) == vector["peer_id"]
        assert key.sign(b"hello").hex() == vector["signature_of_hello"]

    @given(seeds, st.binary(max_size=100))
    def test_signature_verifies_for_its_key_and_message_only(self, seed, message):
        key = KeyPair(seed)
        signature = key.sign(message)
        verify(key.peer_id.public_key, message, signature)
        with pytest.raises(SignatureInvalid):
            verify(key.peer_id.public_key, message + b"!", signature)
        with pytest.raises(SignatureInvalid):
            verify(PROVIDER.peer_id.public_key, message, signature)

    @given(st.binary(max_size=80), st.binary(max_size=80))
    def test_any_key_and_signature_are_refused_not_crashed_on(self, public_key, signature):
        with pytest.raises(SignatureInvalid):
            verify(public_key, b"message", signature)

    def test_secret_key_is_not_in_the_repr(self):
        key = KeyPair.generate()
        assert key.seed.hex() not in repr(key)
        assert KeyPair(key.seed).peer_id == key.peer_id
