"""Weights between nodes: what is asked for and how it is answered (docs/protocol/weights.md).

A stream speaks `/piecework/weights/1`. The asker sends a request, the holder a reply and, when it
grants, the bytes in chunks of one frame each; then the next request. Nothing here is trusted: the
asker hashes what comes and compares with a manifest whose own hash it knows.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.limits import MANIFEST_BYTES_MAX, NAME_BYTES_MAX
from protocol.model import HASH_BYTES
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields

__all__ = [
    "CHUNK_BYTES_MAX",
    "ITEM_BYTES_MAX",
    "PROTOCOL",
    "REQUEST_BYTES_MAX",
    "ItemKind",
    "ReplyStatus",
    "WeightReply",
    "WeightRequest",
    "manifest_request",
]

PROTOCOL: Final = "/piecework/weights/1"

REQUEST_BYTES_MAX: Final = 1024
"""A request or a reply: a hash, a tensor's name of at most 256 bytes, and two numbers."""

CHUNK_BYTES_MAX: Final = 1024 * 1024
"""One frame of bytes: large enough that framing costs nothing, small enough to be cut in time."""

ITEM_BYTES_MAX: Final = 2**43
"""8 TiB, as a weight file."""


class ItemKind(IntEnum):
    """What `name` names."""

    MANIFEST = 0
    """The manifest of `manifest_hash`; without a hash, that of the model called `name`."""
    HEADER = 1
    """The header of the weight file `name`, with its length before it."""
    TENSOR = 2
    FILE = 3
    """A text file beside the weights, as config.json; the holder has a list of those it gives."""


class ReplyStatus(IntEnum):
    OK = 0
    NOT_HERE = 1
    """The holder has no such item, or has not verified it."""
    BUSY = 2
    """Too many ask at once; another time, or another node."""


@dataclass(frozen=True, slots=True)
class WeightRequest:
    """Bytes [start, end) of one item. An `end` beyond the item means to its end."""

    kind: ItemKind
    name: str
    start: int
    end: int
    manifest_hash: bytes | None = None
    """Left out only to ask for a manifest by name."""

    def __post_init__(self) -> None:
        if len(self.name.encode()) > NAME_BYTES_MAX or not self.name.isprintable():
            raise RemoteProtocolError("An item's name has up to 256 printable bytes.")
        if not 0 <= self.start <= self.end <= ITEM_BYTES_MAX:
            raise RemoteProtocolError("The range of a request is out of bounds.")
        if self.manifest_hash is None and self.kind != ItemKind.MANIFEST:
            raise RemoteProtocolError("Only a manifest can be asked for without its hash.")
        if self.manifest_hash is not None and len(self.manifest_hash) != HASH_BYTES:
            raise RemoteProtocolError("A manifest's hash is a SHA-256.")

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    @classmethod
    def decode(cls, data: bytes) -> "WeightRequest":
        return decode_fields(cls, decode_canonical(data, size_max=REQUEST_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class WeightReply:
    """With OK, `end - start` bytes of an item of `item_bytes` follow; else nothing does."""

    status: ReplyStatus
    item_bytes: int
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= self.item_bytes <= ITEM_BYTES_MAX:
            raise RemoteProtocolError("The range of a reply is out of bounds.")
        if self.status != ReplyStatus.OK and self.item_bytes:
            raise RemoteProtocolError("A refusal grants no bytes.")

    @classmethod
    def refusal(cls, status: ReplyStatus) -> "WeightReply":
        return cls(status, 0, 0, 0)

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    @classmethod
    def decode(cls, data: bytes) -> "WeightReply":
        return decode_fields(cls, decode_canonical(data, size_max=REQUEST_BYTES_MAX))


def manifest_request(manifest_hash: bytes | None, name: str) -> WeightRequest:
    """Ask for a whole manifest by its hash, or by the model's name."""
    return WeightRequest(ItemKind.MANIFEST, name, 0, MANIFEST_BYTES_MAX, manifest_hash)
