"""The libp2p TLS certificate: an ephemeral TLS key, vouched for by the Ed25519 identity key.

Source: libp2p specs, tls/tls.md "Peer Authentication". We accept Ed25519 identities only, so the
extension has exactly one valid encoding and is compared, not parsed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.errors import SignatureInvalid
from protocol.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, KeyPair, PeerId, verify
from transport.errors import IdentityMismatch
from transport.quic.settings import ALPN

__all__ = [
    "EXTENSION_OID",
    "TlsIdentity",
    "make_certificate",
    "verify_certificates",
    "verify_peer",
]

EXTENSION_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
_SIGNED_PREFIX: Final = b"libp2p-tls-handshake:"

# DER: SEQUENCE (104) { OCTET STRING (36) {protobuf Type=Ed25519, Data (32)}, OCTET STRING (64) }
_KEY_PREFIX: Final = bytes((0x30, 0x68, 0x04, 0x24, 0x08, 0x01, 0x12, 0x20))
_SIGNATURE_PREFIX: Final = bytes((0x04, 0x40))

# Home clocks are wrong by days; the dates prove nothing that the signature does not.
_VALID_FROM: Final = datetime(1975, 1, 1, tzinfo=UTC)
_VALID_UNTIL: Final = datetime(4096, 1, 1, tzinfo=UTC)

_MALFORMED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""All that `cryptography` raises for a certificate that parses as one and is none."""


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A certificate and its secret key, for one run of one host."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey


def make_certificate(key: KeyPair) -> TlsIdentity:
    """A self-signed certificate over a new P-256 key that proves `key.peer_id`."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    signature = key.sign(_SIGNED_PREFIX + _public_key_der(private_key.public_key()))
    extension = _KEY_PREFIX + key.peer_id.public_key + _SIGNATURE_PREFIX + signature
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .add_extension(x509.UnrecognizedExtension(EXTENSION_OID, extension), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    return TlsIdentity(certificate, private_key)


def verify_peer(
    chain: Sequence[x509.Certificate],
    *,
    alpn: str | None,
    expected: PeerId | None,
    now: datetime,
) -> PeerId:
    """Who the other end of a handshake is; `expected` is whom we dialled.

    Raises IdentityMismatch.
    """
    if alpn != ALPN:
        raise IdentityMismatch(f"The peer does not speak '{ALPN}'.")
    peer_id = verify_certificates(chain, now)
    if expected is not None and peer_id != expected:
        raise IdentityMismatch(f"The peer there is {peer_id}, not {expected}.")
    return peer_id


def verify_certificates(chain: Sequence[x509.Certificate], now: datetime) -> PeerId:
    """The PeerId that the peer's certificate proves; raises IdentityMismatch.

    TLS has proved already that the peer holds the certificate's key.
    """
    if len(chain) != 1:
        raise IdentityMismatch(f"The peer showed {len(chain)} certificates instead of one.")
    certificate = chain[0]
    try:
        is_valid_today = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
        certificate.verify_directly_issued_by(certificate)
        extension = certificate.extensions.get_extension_for_oid(EXTENSION_OID).value
        spki = _public_key_der(certificate.public_key())
    except InvalidSignature:
        raise IdentityMismatch("The peer's certificate is not signed by its own key.") from None
    except x509.ExtensionNotFound:
        raise IdentityMismatch("The peer's certificate names no libp2p identity.") from None
    except _MALFORMED as error:
        raise IdentityMismatch(f"The peer's certificate is malformed: {error}.") from None
    if not is_valid_today:
        raise IdentityMismatch("The peer's certificate is not valid today.")
    assert isinstance(extension, x509.UnrecognizedExtension)
    return _verify_extension(extension.value, spki)


def _verify_extension(value: bytes, spki: bytes) -> PeerId:
    key_end = len(_KEY_PREFIX) + PUBLIC_KEY_BYTES
    signature_start = key_end + len(_SIGNATURE_PREFIX)
    if (
        len(value) != signature_start + SIGNATURE_BYTES
        or not value.startswith(_KEY_PREFIX)
        or value[key_end:signature_start] != _SIGNATURE_PREFIX
    ):
        raise IdentityMismatch("The peer's certificate holds no Ed25519 identity.")
    public_key = value[len(_KEY_PREFIX) : key_end]
    try:
        verify(public_key, _SIGNED_PREFIX + spki, value[signature_start:])
    except SignatureInvalid:
        raise IdentityMismatch("The identity key did not sign the peer's certificate.") from None
    return PeerId(public_key)


def _public_key_der(key: object) -> bytes:
    if not hasattr(key, "public_bytes"):
        raise TypeError("the key cannot be encoded")
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
