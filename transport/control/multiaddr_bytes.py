"""Addresses in the binary form of multiformats' multiaddr, as other libp2p messages carry them."""

from typing import Final

from protocol.errors import RemoteProtocolError
from transport.address import Address, AnyAddress, TcpAddress, parse_address

__all__ = ["MULTIADDR_BYTES_MAX", "decode_address", "encode_address", "encode_listen"]

MULTIADDR_BYTES_MAX: Final = 256
"""A circuit address over IPv6 has 125."""


def encode_address(address: AnyAddress) -> bytes:
    """Binary form of the whole address, PeerId and all."""
    return _encode(str(address))


def encode_listen(address: Address | TcpAddress) -> bytes:
    """Binary form without `/p2p/…`: what identify calls a listen address."""
    return _encode(str(address).rpartition("/p2p/")[0])


def decode_address(data: bytes) -> AnyAddress:
    """One of our three forms; raises RemoteProtocolError for everything else."""
    from multiaddr import Multiaddr

    if len(data) > MULTIADDR_BYTES_MAX:
        raise RemoteProtocolError(f"A multiaddr has at most {MULTIADDR_BYTES_MAX} bytes.")
    try:
        text = str(Multiaddr(data))
    except Exception as error:  # the library raises whatever its codecs raise
        raise RemoteProtocolError("That is not a binary multiaddr.") from error
    return parse_address(text)


def _encode(text: str) -> bytes:
    from multiaddr import Multiaddr

    return bytes(Multiaddr(text).to_bytes())
