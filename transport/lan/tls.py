"""TLS 1.3 for the LAN: a throw-away certificate whose hash the peer already knows over QUIC.

The certificate says nothing and nobody signs it: the dialler compares its SHA-256 with the one
that the listener named over its verified connection, and the listener knows the dialler by its
ticket.
"""

import asyncio
import hashlib
import hmac
import secrets
import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from transport.lan.wire import LAN_ALPN

__all__ = ["has_certificate", "make_client_context", "make_server_context"]


def make_server_context() -> tuple[ssl.SSLContext, bytes]:
    """A context with a new certificate, and the SHA-256 of that; about 20 ms."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Home clocks are wrong by days; the dates prove nothing here.
        .not_valid_before(datetime(1975, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(4096, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    # `ssl` reads keys from files only: it lies there for a moment, and sealed.
    password = secrets.token_hex(16)
    sealed = BestAvailableEncryption(password.encode())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # a stream's connection is never resumed
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "certificate.pem")
        path.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(path, password=password)
    return context, hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def make_client_context() -> ssl.SSLContext:
    """Accepts any certificate: ask `has_certificate` before a byte is sent."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def has_certificate(transport: asyncio.BaseTransport, expected_hash: bytes) -> bool:
    """Whether the other end of a finished handshake showed the certificate with that SHA-256."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None or tls.selected_alpn_protocol() != LAN_ALPN:
        return False
    shown = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").digest()
    return hmac.compare_digest(shown, expected_hash)


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([LAN_ALPN])
    return context
