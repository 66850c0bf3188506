"""How activations travel: wire dtypes and the sizes they imply. No array library here.

An activation is (tokens, hidden_size) in the session's wire dtype, row behind row; its byte length
follows from the three numbers, so a frame whose payload has another length is malformed. How the
values of a row become its bytes is in docs/protocol/frames.md and, as code, node/engine/wire.py.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from protocol.errors import RemoteProtocolError
from protocol.limits import HIDDEN_SIZE_MAX, STEP_TOKENS_MAX

__all__ = [
    "LINK_HASH_START",
    "SCALE_BLOCK",
    "SCALE_BYTES",
    "TensorHeader",
    "WireDtype",
    "extend_link_hash",
    "payload_hash",
]

LINK_HASH_START = bytes(32)
"""The hash of a link on which nothing has travelled yet."""

SCALE_BLOCK = 32
"""Values that share one scale in int8b32: 2 bytes in 34, and an outlier spoils only 31 others."""

SCALE_BYTES = 2


class WireDtype(StrEnum):
    """How activations travel, little-endian; part of the session's identity."""

    FP32 = "fp32"
    BF16 = "bf16"
    """The upper 16 bits of an fp32, rounded to nearest even."""

    INT8B32 = "int8b32"
    """Blocks of 32 values in int8, each with a bf16 scale; a row's last block may be shorter."""
    INT8B32H = "int8b32h"
    """int8b32 of the row after an orthonormal Hadamard turn: for models with outlier channels."""

    def row_bytes(self, hidden_size: int) -> int:
        """Bytes of one row of `hidden_size` values."""
        match self:
            case WireDtype.FP32:
                return 4 * hidden_size
            case WireDtype.BF16:
                return 2 * hidden_size
            case WireDtype.INT8B32 | WireDtype.INT8B32H:
                return hidden_size + SCALE_BYTES * -(-hidden_size // SCALE_BLOCK)
        assert_never(self)


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Shape and dtype of one activation payload."""

    tokens: int
    hidden_size: int
    dtype: WireDtype

    def __post_init__(self) -> None:
        if not 0 <= self.tokens <= STEP_TOKENS_MAX:
            raise RemoteProtocolError(f"A step of {self.tokens} rows is above {STEP_TOKENS_MAX}.")
        if not 0 < self.hidden_size <= HIDDEN_SIZE_MAX:
            raise RemoteProtocolError(f"A hidden size of {self.hidden_size} is not served.")

    @property
    def size_bytes(self) -> int:
        return self.tokens * self.dtype.row_bytes(self.hidden_size)


def payload_hash(payload: bytes | memoryview) -> bytes:
    """SHA-256 of a payload, as carried in its frame's header."""
    return hashlib.sha256(payload).digest()


def extend_link_hash(link_hash: bytes, payload_digest: bytes) -> bytes:
    """The rolling hash of a link after one more payload; both ends must arrive at the same."""
    return hashlib.sha256(link_hash + payload_digest).digest()
