"""Who may open a connection: the answer to an Initial packet that fits no connection.

Limits, version negotiation (RFC 9000 section 6), and Retry against floods (section 8.1.2). Nothing
is kept for a stranger who has not proved his address once many handshakes are under way.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from transport.paths.path_address import PathAddress, token_address
from transport.quic.settings import CONNECTION_ID_BYTES, DATAGRAM_BYTES_MIN, QuicSettings

__all__ = ["Admission", "Admitted", "EndpointCounts"]


@dataclass(slots=True)
class EndpointCounts:
    """Counts since the start: what was dropped, by reason, and what was answered."""

    own_packets_dropped: int = 0
    """Of ours, but nobody here waits for such a one."""
    forwarded_dropped: int = 0
    """FORWARDED by a relay or for a circuit that nobody here bound."""
    noise_dropped: int = 0
    """First byte of neither kind, or an unreadable header."""
    unroutable_dropped: int = 0
    """QUIC that fits no connection and opens none: late, forged, or damaged."""
    over_limit_dropped: int = 0
    versions_negotiated: int = 0
    retries_sent: int = 0
    tokens_refused: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """The two connection ids that a server connection must be built with."""

    original_destination_id: bytes
    retry_source_id: bytes | None


class Admission:
    """Decides from a header and the current numbers; `answer` sends one datagram to a path."""

    def __init__(
        self,
        settings: QuicSettings,
        counts: EndpointCounts,
        answer: Callable[[bytes, PathAddress], None],
    ) -> None:
        self._settings = settings
        self._counts = counts
        self._answer = answer
        self._tokens = QuicRetryTokenHandler()
        self._versions = QuicConfiguration().supported_versions

    def decide(
        self,
        header: QuicHeader,
        size: int,
        source: PathAddress,
        now: float,
        *,
        connection_count: int,
        half_open_count: int,
    ) -> Admitted | None:
        """Admit the sender of this first datagram of `size` bytes, or answer or drop it."""
        if size < DATAGRAM_BYTES_MIN or header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
            # Never answer a negotiation packet: two servers could be set at each other.
            self._counts.unroutable_dropped += 1
            return None
        if header.version not in self._versions:
            self._negotiate_version(header, source)
            return None
        if header.packet_type != QuicPacketType.INITIAL:
            self._counts.unroutable_dropped += 1
            return None
        settings = self._settings
        if (
            connection_count >= settings.connections_max
            or half_open_count >= settings.half_open_max
        ):
            self._counts.over_limit_dropped += 1
            return None
        if header.token:
            return self._check_token(header, source, now)
        if half_open_count >= settings.half_open_free_max:
            self._send_retry(header, source, now)
            return None
        return Admitted(header.destination_cid, None)

    def _check_token(self, header: QuicHeader, source: PathAddress, now: float) -> Admitted | None:
        try:
            original = self._tokens.validate_token(
                address=token_address(source),
                destination_cid=header.destination_cid,
                token=header.token,
                now=now,
            )
        except ValueError:
            self._counts.tokens_refused += 1
            return None
        return Admitted(original, header.destination_cid)

    def _send_retry(self, header: QuicHeader, source: PathAddress, now: float) -> None:
        assert header.version is not None, "long headers carry a version"
        retry_id = os.urandom(CONNECTION_ID_BYTES)
        token = self._tokens.create_token(
            address=token_address(source),
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=retry_id,
            now=now,
        )
        self._counts.retries_sent += 1
        self._answer(
            encode_quic_retry(
                version=header.version,
                source_cid=retry_id,
                destination_cid=header.source_cid,
                original_destination_cid=header.destination_cid,
                retry_token=token,
            ),
            source,
        )

    def _negotiate_version(self, header: QuicHeader, source: PathAddress) -> None:
        self._counts.versions_negotiated += 1
        self._answer(
            encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=self._versions,
            ),
            source,
        )
