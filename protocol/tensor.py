"""How activations travel: wire dtypes and the sizes they imply. No array library here.

An activation is a row-major (tokens, hidden_size) matrix in the session's wire dtype; its byte
length follows from the three numbers, so a frame whose payload has another length is malformed.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from protocol.errors import RemoteProtocolError
from protocol.limits import HIDDEN_SIZE_MAX, STEP_TOKENS_MAX

__all__ = ["LINK_HASH_START", "TensorHeader", "WireDtype", "extend_link_hash", "payload_hash"]

LINK_HASH_START = bytes(32)
"""The hash of a link on which nothing has travelled yet."""


class WireDtype(StrEnum):
    """Little-endian element type of activations on the wire; part of the session's identity."""

    FP32 = "fp32"
    BF16 = "bf16"
    """The upper 16 bits of an fp32, rounded to nearest even."""

    @property
    def element_bytes(self) -> int:
        match self:
            case WireDtype.FP32:
                return 4
            case WireDtype.BF16:
                return 2
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
        return self.tokens * self.hidden_size * self.dtype.element_bytes


def payload_hash(payload: bytes | memoryview) -> bytes:
    """SHA-256 of a payload, as carried in its frame's header."""
    return hashlib.sha256(payload).digest()


def extend_link_hash(link_hash: bytes, payload_digest: bytes) -> bytes:
    """The rolling hash of a link after one more payload; both ends must arrive at the same."""
    return hashlib.sha256(link_hash + payload_digest).digest()
