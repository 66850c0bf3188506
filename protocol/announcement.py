"""Announcement: this peer serves this span of this model now."""

from dataclasses import dataclass
from typing import ClassVar

from protocol.identity import PeerId
from protocol.route import Span

__all__ = ["Announcement"]


@dataclass(frozen=True, slots=True)
class Announcement:
    """Signed by the peer. Says what is loaded, not what it costs (that is an Offer)."""

    DOMAIN: ClassVar[str] = "piecework/announcement/v1"

    peer_id: PeerId
    addresses: tuple[str, ...]
    model: str
    manifest_hash: bytes
    layers: int
    """Of the whole model."""
    span: Span
    embeds: bool
    has_head: bool
    backend: str
    kv_tokens: int
    issued_at_s: int
    expires_at_s: int
