from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import KeyPair
from transport.errors import IdentityMismatch
from transport.quic.certificate import EXTENSION_OID, make_certificate, verify_certificates

NOW = datetime(2026, 11, 1, tzinfo=UTC)

# libp2p specs, tls/tls.md "Test vectors" 1 to 4
ED25519_VECTOR = (
    "308201ae30820156a0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c"
    "69627032702e696f310a300806035504051301313020170d3735303130313133303030305a180f343039363031"
    "30313133303030305a302031123010060355040a13096c69627032702e696f310a300806035504051301313059"
    "301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca85e27c73c263ba132721bb9d7"
    "a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569ea3"
    "7c307a3078060a2b0601040183a25a0101046a3068042408011220a77f1d92fedb59dddaea5a1c4abd1ac2fbde"
    "7d7b879ed364501809923d7c11b90440d90d2769db992d5e6195dbb08e706b6651e024fda6cfb8846694a43551"
    "9941cac215a8207792e42849cccc6cd8136c6e4bde92a58c5e08cfd4206eb5fe0bf909300a06082a8648ce3d04"
    "03020346003043021f50f6b6c52711a881778718238f650c9fb48943ae6ee6d28427dc6071ae55e702203625f1"
    "16a7a454db9c56986c82a25682f7248ea1cb764d322ea983ed36a31b77"
)
ECDSA_VECTOR = (
    "308201f63082019da0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c"
    "69627032702e696f310a300806035504051301313020170d3735303130313133303030305a180f343039363031"
    "30313133303030305a302031123010060355040a13096c69627032702e696f310a300806035504051301313059"
    "301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca85e27c73c263ba132721bb9d7"
    "a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569ea3"
    "81c23081bf3081bc060a2b0601040183a25a01010481ad3081aa045f0803125b3059301306072a8648ce3d0201"
    "06082a8648ce3d03010703420004bf30511f909414ebdd3242178fd290f093a551cf75c973155de0bb5a96fedf"
    "6cb5d52da7563e794b512f66e60c7f55ba8a3acf3dd72a801980d205e8a1ad29f2044730450220064ea8124774"
    "caf8f50e57f436aa62350ce652418c019df5d98a3ac666c9386a022100aa59d704a931b5f72fb9222cb6cc51f9"
    "54d04a4e2e5450f8805fe8918f71eaae300a06082a8648ce3d04030203470030440220799395b0b6c1e940a7e4"
    "484705f610ab51ed376f19ff9d7c16757cfbf61b8d4302206205c03fbb0f95205c779be86581d3e31c01871ad5"
    "d1f3435bcf375cb0e5088a"
)
SECP256K1_VECTOR = (
    "308201ba3082015fa0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c"
    "69627032702e696f310a300806035504051301313020170d3735303130313133303030305a180f343039363031"
    "30313133303030305a302031123010060355040a13096c69627032702e696f310a300806035504051301313059"
    "301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca85e27c73c263ba132721bb9d7"
    "a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569ea3"
    "8184308181307f060a2b0601040183a25a01010471306f0425080212210206dc6968726765b820f050263ececf"
    "7f71e4955892776c0970542efd689d2382044630440220145e15a991961f0d08cd15425bb95ec93f6ffa03c5a3"
    "85eedc34ecf464c7a8ab022026b3109b8a3f40ef833169777eb2aa337cfb6282f188de0666d1bcec2a4690dd30"
    "0a06082a8648ce3d0403020349003046022100e1a217eeef9ec9204b3f774a08b70849646b6a1e6b8b27f93dc0"
    "0ed58545d9fe022100b00dafa549d0f03547878338c7b15e7502888f6d45db387e5ae6b5d46899cef0"
)
INVALID_VECTOR = (
    "308201f73082019da0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c"
    "69627032702e696f310a300806035504051301313020170d3735303130313133303030305a180f343039363031"
    "30313133303030305a302031123010060355040a13096c69627032702e696f310a300806035504051301313059"
    "301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca85e27c73c263ba132721bb9d7"
    "a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569ea3"
    "81c23081bf3081bc060a2b0601040183a25a01010481ad3081aa045f0803125b3059301306072a8648ce3d0201"
    "06082a8648ce3d03010703420004bf30511f909414ebdd3242178fd290f093a551cf75c973155de0bb5a96fedf"
    "6cb5d52da7563e794b512f66e60c7f55ba8a3acf3dd72a801980d205e8a1ad29f204473045022100bb6e03577b"
    "7cc7a3cd1558df0da2b117dfdcc0399bc2504ebe7de6f65cade72802206de96e2a5be9b6202adba24ee0362e49"
    "0641ac45c240db71fe955f2c5cf8df6e300a06082a8648ce3d0403020348003045022100e847f267f43717358f"
    "850355bdcabbefb2cfbf8a3c043b203a14788a092fe8db022027c1d04a2d41fd6b57a7e8b3989e470325de4406"
    "e52e084e34a3fd56eef0d0df"
)


def load(vector: str) -> x509.Certificate:
    return x509.load_der_x509_certificate(bytes.fromhex(vector))


def build(
    *,
    extension: bytes | None,
    tls_key: ec.EllipticCurvePrivateKey | None = None,
    signer: ec.EllipticCurvePrivateKey | None = None,
    valid_from: datetime = NOW - timedelta(days=1),
    valid_until: datetime = NOW + timedelta(days=1),
) -> x509.Certificate:
    tls_key = tls_key or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(tls_key.public_key())
        .serial_number(1)
        .not_valid_before(valid_from)
        .not_valid_after(valid_until)
    )
    if extension is not None:
        value = x509.UnrecognizedExtension(EXTENSION_OID, extension)
        builder = builder.add_extension(value, critical=True)
    return builder.sign(signer or tls_key, hashes.SHA256())


def extension_for(key: KeyPair, tls_key: ec.EllipticCurvePrivateKey) -> bytes:
    spki = tls_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(b"libp2p-tls-handshake:" + spki)
    return bytes.fromhex("3068042408011220") + key.peer_id.public_key + b"\x04\x40" + signature


class TestSpecificationVectors:
    def test_ed25519_certificate_proves_its_peer_id(self):
        peer_id = verify_certificates([load(ED25519_VECTOR)], NOW)
        assert str(peer_id) == "12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv"

    @pytest.mark.parametrize("vector", [ECDSA_VECTOR, SECP256K1_VECTOR])
    def test_other_key_types_are_not_identities_here(self, vector):
        with pytest.raises(IdentityMismatch, match="no Ed25519 identity"):
            verify_certificates([load(vector)], NOW)

    def test_invalid_certificate_is_refused(self):
        with pytest.raises(IdentityMismatch):
            verify_certificates([load(INVALID_VECTOR)], NOW)


class TestMakeCertificate:
    def test_own_certificate_proves_own_peer_id(self):
        key = KeyPair.generate()
        assert verify_certificates([make_certificate(key).certificate], NOW) == key.peer_id

    def test_each_certificate_has_a_key_of_its_own(self):
        key = KeyPair.generate()
        first, second = make_certificate(key), make_certificate(key)
        assert first.private_key.private_numbers() != second.private_key.private_numbers()


class TestVerifyCertificates:
    def test_control_a_certificate_built_by_hand_is_good(self):
        key, tls_key = KeyPair.generate(), ec.generate_private_key(ec.SECP256R1())
        certificate = build(extension=extension_for(key, tls_key), tls_key=tls_key)
        assert verify_certificates([certificate], NOW) == key.peer_id

    @pytest.mark.parametrize("count", [0, 2])
    def test_exactly_one_certificate_is_asked_for(self, count):
        certificate = make_certificate(KeyPair.generate()).certificate
        with pytest.raises(IdentityMismatch, match=f"{count} certificates"):
            verify_certificates([certificate] * count, NOW)

    @pytest.mark.parametrize("days", [-2, 2])
    def test_certificate_outside_its_dates_is_refused(self, days):
        key, tls_key = KeyPair.generate(), ec.generate_private_key(ec.SECP256R1())
        certificate = build(extension=extension_for(key, tls_key), tls_key=tls_key)
        with pytest.raises(IdentityMismatch, match="not valid today"):
            verify_certificates([certificate], NOW + timedelta(days=days))

    def test_certificate_without_the_extension_is_refused(self):
        with pytest.raises(IdentityMismatch, match="names no libp2p identity"):
            verify_certificates([build(extension=None)], NOW)

    def test_certificate_signed_by_another_key_is_refused(self):
        key, tls_key = KeyPair.generate(), ec.generate_private_key(ec.SECP256R1())
        certificate = build(
            extension=extension_for(key, tls_key),
            tls_key=tls_key,
            signer=ec.generate_private_key(ec.SECP256R1()),
        )
        with pytest.raises(IdentityMismatch, match="not signed by its own key"):
            verify_certificates([certificate], NOW)

    def test_extension_copied_from_another_certificate_is_refused(self):
        key, tls_key = KeyPair.generate(), ec.generate_private_key(ec.SECP256R1())
        with pytest.raises(IdentityMismatch, match="did not sign"):
            verify_certificates([build(extension=extension_for(key, tls_key))], NOW)

    @given(st.binary(max_size=120))
    def test_arbitrary_extension_is_refused(self, extension):
        with pytest.raises(IdentityMismatch):
            verify_certificates([build(extension=extension)], NOW)

    @pytest.mark.filterwarnings("ignore:Parsed a serial number")
    def test_every_flipped_bit_is_refused(self):
        good = bytes.fromhex(ED25519_VECTOR)
        for bit in range(8 * len(good)):
            der = bytearray(good)
            der[bit // 8] ^= 1 << bit % 8
            try:
                certificate = x509.load_der_x509_certificate(bytes(der))
            except (ValueError, x509.InvalidVersion):
                continue  # no certificate at all: TLS fails before we are asked
            with pytest.raises(IdentityMismatch):
                verify_certificates([certificate], NOW)
