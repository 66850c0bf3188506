"""Idempotency keys, as Stripe keeps them: 24 hours of its clock, the reply whatever it was.

The same key with another body is refused; while the first is being worked on a second is told to
wait. On v1 every reply of a request that began to execute is kept, a stored 500 too; on v2 only a
success is, so that a retry after a failure tries again.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from tests.fakestripe.errors import Refused

__all__ = ["KEY_LIFE_S", "Keys", "Reply"]

KEY_LIFE_S = 24 * 3600
KEY_CHARACTERS_MAX = 255


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes over the wire."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Entry:
    fingerprint: tuple[str, bytes]
    made_at_s: int
    reply: Reply | None = None


class Keys:
    """All keys that are remembered, oldest first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, key: str, path: str, body: bytes, now_s: int) -> Reply | None:
        """The stored reply, or None where the request is new; raises what a reuse is told."""
        self._forget(now_s)
        if len(key) > KEY_CHARACTERS_MAX:
            raise Refused(400, "invalid_request_error", "parameter_invalid", "The key is too long.")
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = _Entry((path, body), now_s)
            return None
        if entry.fingerprint != (path, body):
            raise Refused(
                400,
                "idempotency_error",
                "idempotency_key_in_use",
                "Keys for idempotent requests can only be used with the same parameters they were"
                f" first used with. Try using a key other than '{key}'.",
            )
        if entry.reply is None:
            raise in_progress(key)
        return entry.reply

    def keep(self, key: str, reply: Reply) -> None:
        """The request is over, and this is its reply from now on."""
        if key in self._entries:
            self._entries[key].reply = reply

    def drop(self, key: str) -> None:
        """The request is over and left nothing to replay."""
        self._entries.pop(key, None)

    def _forget(self, now_s: int) -> None:
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if now_s - entry.made_at_s < KEY_LIFE_S:
                return
            del self._entries[key]


def in_progress(key: str) -> Refused:
    """Told to whoever sends a key whose first request is not over."""
    return Refused(
        409,
        "idempotency_error",
        "idempotency_key_in_use",
        f"There is currently another in-progress request using this key ('{key}').",
    )
