"""The one door to py-libp2p: whatever of ours needs it imports it from here, lazily (0.7 s).

Of the library only Noise, the upgrader, yamux and the circuit's messages are used. Its import alone
has two defects (`defects` has the others, and the numbering): it replaces a method of
aioquic for the whole process (D17), and clears its logger's handlers and propagation (D18).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aioquic.quic.stream import QuicStreamSender

__all__ = [
    "FLAG_SYN",
    "GO_AWAY_NORMAL",
    "HEADER_SIZE",
    "ID",
    "MAX_MESSAGE_SIZE",
    "NOISE_PROTOCOL",
    "TYPE_GO_AWAY",
    "TYPE_PING",
    "YAMUX_HEADER_FORMAT",
    "YAMUX_PROTOCOL",
    "BaseLibp2pError",
    "ConnectionClosedError",
    "IOException",
    "MuxedConnUnavailable",
    "Noise",
    "PeerIDMismatchesPubkey",
    "RawConnError",
    "RawConnection",
    "ReadWriteCloser",
    "TransportUpgrader",
    "Yamux",
    "YamuxStream",
    "circuit_pb2",
    "ed25519_key_pair",
    "x25519_key_pair",
]


@contextmanager
def _process_untouched() -> Iterator[None]:
    """D17, D18: put back what the import of the library changes for everybody."""
    get_frame, logger = QuicStreamSender.get_frame, logging.getLogger("libp2p")
    handlers, level = list(logger.handlers), logger.level
    try:
        yield
    finally:
        QuicStreamSender.get_frame = get_frame  # type: ignore[method-assign]
        logger.handlers[:] = handlers
        logger.propagate = True
        # Its warnings are what strangers do to us: for those who ask, not for every operator.
        logger.setLevel(level or logging.CRITICAL)


with _process_untouched():
    from libp2p.crypto.ed25519 import create_new_key_pair as ed25519_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as x25519_key_pair
    from libp2p.exceptions import BaseLibp2pError
    from libp2p.io.abc import ReadWriteCloser
    from libp2p.io.exceptions import ConnectionClosedError, IOException
    from libp2p.network.connection.exceptions import RawConnError
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.peer.id import ID
    from libp2p.relay.circuit_v2.pb import circuit_pb2
    from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
    from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
    from libp2p.security.noise.transport import Transport as Noise
    from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
    from libp2p.stream_muxer.yamux.yamux import (
        FLAG_SYN,
        GO_AWAY_NORMAL,
        HEADER_SIZE,
        MAX_MESSAGE_SIZE,
        TYPE_GO_AWAY,
        TYPE_PING,
        YAMUX_HEADER_FORMAT,
        Yamux,
        YamuxStream,
    )
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
    from libp2p.transport.upgrader import TransportUpgrader
