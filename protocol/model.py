"""ModelManifest: an exact set of weights by content hash.

The manifest's own hash (`manifest_hash`) is the model's identity in offers, leases and sessions;
its `name` is only what people call it.
"""

import hashlib
from dataclasses import dataclass

from protocol.errors import RemoteProtocolError
from protocol.limits import (
    HIDDEN_SIZE_MAX,
    LAYERS_MAX,
    MANIFEST_BYTES_MAX,
    NAME_BYTES_MAX,
    VOCABULARY_MAX,
)
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from protocol.route import Span

__all__ = ["ENDS", "HeaderEntry", "ModelManifest", "TensorEntry"]

ENDS = -1
"""The layer number of a tensor that belongs to the ends: embedding, final norm, LM head."""
HASH_BYTES = 32
_DOMAIN = b"piecework/manifest/v1\0"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: where its bytes lie in which file, and their SHA-256."""

    name: str
    layer: int
    file: str
    start: int
    end: int
    sha256: bytes

    def __post_init__(self) -> None:
        if not ENDS <= self.layer < LAYERS_MAX or not 0 <= self.start <= self.end:
            raise RemoteProtocolError(f"The entry of tensor '{self.name[:64]}' is out of range.")
        if len(self.sha256) != HASH_BYTES:
            raise RemoteProtocolError("A tensor's hash is a SHA-256.")
        _require_plain(self.file)

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class HeaderEntry:
    """A weight file's header, its bytes [0, size_bytes): what gives a tensor's bytes their dtype
    and shape, so a source must not be free to choose it."""

    file: str
    size_bytes: int
    sha256: bytes

    def __post_init__(self) -> None:
        if self.size_bytes <= 0 or len(self.sha256) != HASH_BYTES:
            raise RemoteProtocolError(f"The header of '{self.file[:64]}' is out of range.")
        _require_plain(self.file)


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """An exact set of weights. Sizes in bytes; `dtype` as stored; hashes are SHA-256."""

    name: str
    family: str
    """The HF `model_type`, e.g. `llama`."""
    layers: int
    hidden_size: int
    vocabulary_size: int
    context_tokens: int
    """The longest sequence the model was made for."""
    dtype: str
    licence: str
    resale_allowed: bool
    config_sha256: bytes
    tokenizer_sha256: bytes
    tensors: tuple[TensorEntry, ...]
    headers: tuple[HeaderEntry, ...] | None = None
    """One a weight file. None: a manifest from before headers were vouched for."""

    def __post_init__(self) -> None:
        if not 0 < len(self.name.encode()) <= NAME_BYTES_MAX:
            raise RemoteProtocolError("A model's name has between 1 and 256 bytes.")
        if not 0 < self.layers <= LAYERS_MAX or not 0 < self.hidden_size <= HIDDEN_SIZE_MAX:
            raise RemoteProtocolError("The manifest's layers or hidden size are out of range.")
        if not 0 < self.vocabulary_size <= VOCABULARY_MAX or self.context_tokens <= 0:
            raise RemoteProtocolError("The manifest's vocabulary or context is out of range.")
        if any(len(h) != HASH_BYTES for h in (self.config_sha256, self.tokenizer_sha256)):
            raise RemoteProtocolError("A manifest's hashes are SHA-256.")

    def encode(self) -> bytes:
        return encode_canonical(encode_fields(self))

    @classmethod
    def decode(cls, data: bytes) -> "ModelManifest":
        return decode_fields(cls, decode_canonical(data, size_max=MANIFEST_BYTES_MAX))

    @property
    def manifest_hash(self) -> bytes:
        """The model's identity: SHA-256 over a domain and the canonical encoding."""
        return hashlib.sha256(_DOMAIN + self.encode()).digest()

    def size_bytes(self, span: Span, *, ends: bool = False) -> int:
        """Stored bytes of a shard: a span's layers, and the ends where asked."""
        return sum(
            tensor.size_bytes
            for tensor in self.tensors
            if span.start <= tensor.layer < span.end or (ends and tensor.layer == ENDS)
        )


def _require_plain(file: str) -> None:
    if "/" in file or "\\" in file or file.startswith(".") or not file:
        raise RemoteProtocolError(f"'{file[:64]}' is not a plain file name.")
