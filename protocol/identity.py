"""Who a peer is: an Ed25519 key and the libp2p PeerId derived from it.

The PeerId is the base58btc text of an identity multihash over the protobuf-encoded public key
(libp2p peer-ids spec, "Peer Ids"); for Ed25519 it always begins with `12D3KooW`.
"""

from dataclasses import dataclass
from typing import Final

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from protocol.errors import RemoteProtocolError, SignatureInvalid

__all__ = ["PUBLIC_KEY_BYTES", "SIGNATURE_BYTES", "KeyPair", "PeerId", "verify"]

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# multihash: identity code 0x00, length 36; protobuf PublicKey{Type=Ed25519(1), Data=32 bytes}
_PREFIX: Final = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
_TEXT_MAX: Final = 64


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """A node's name on the network; holds the 32-byte Ed25519 public key it is made of."""

    public_key: bytes

    def __post_init__(self) -> None:
        if len(self.public_key) != PUBLIC_KEY_BYTES:
            raise RemoteProtocolError(
                f"A public key has {PUBLIC_KEY_BYTES} bytes, not {len(self.public_key)}."
            )

    @classmethod
    def from_text(cls, text: str) -> "PeerId":
        """Parse the `12D3KooW…` form; refuses anything that is not an Ed25519 PeerId."""
        raw = _base58_decode(text)
        if len(raw) != len(_PREFIX) + PUBLIC_KEY_BYTES or not raw.startswith(_PREFIX):
            raise RemoteProtocolError(f"'{text[:_TEXT_MAX]}' is not an Ed25519 PeerId.")
        return cls(raw[len(_PREFIX) :])

    @classmethod
    def from_multihash(cls, data: bytes) -> "PeerId":
        """Parse the binary form; refuses anything that is not an Ed25519 PeerId."""
        if len(data) != len(_PREFIX) + PUBLIC_KEY_BYTES or not data.startswith(_PREFIX):
            raise RemoteProtocolError("That is not the multihash of an Ed25519 key.")
        return cls(data[len(_PREFIX) :])

    @property
    def multihash(self) -> bytes:
        """The binary form, as it stands in multiaddrs and in other protocols' messages."""
        return _PREFIX + self.public_key

    def __str__(self) -> str:
        return _base58_encode(self.multihash)

    def __repr__(self) -> str:
        return f"PeerId({self})"

    @property
    def short(self) -> str:
        """The last 8 characters, for logs and tables; the first 8 are the same for everyone."""
        return str(self)[-8:]


class KeyPair:
    """A secret Ed25519 key and its PeerId. Never logged, never sent."""

    __slots__ = ("_key", "peer_id")

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self.peer_id = PeerId(bytes(self._key.verify_key))

    @classmethod
    def generate(cls) -> "KeyPair":
        return cls(bytes(SigningKey.generate()))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for the key file and the TLS certificate only."""
        return bytes(self._key)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"KeyPair({self.peer_id.short})"


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Raise SignatureInvalid unless `signature` is that key's over exactly `message`."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        raise SignatureInvalid("The key or the signature has the wrong length.")
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        raise SignatureInvalid("The signature does not match the signed bytes.") from None


def _base58_encode(data: bytes) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + text


def _base58_decode(text: str) -> bytes:
    if not text or len(text) > _TEXT_MAX:
        raise RemoteProtocolError("A PeerId has between 1 and 64 characters.")
    number = 0
    for character in text:
        digit = _ALPHABET.find(character)
        if digit < 0:
            raise RemoteProtocolError(f"'{character}' does not occur in a PeerId.")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
