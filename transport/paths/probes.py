"""The PROBEs of one link: made, remembered, answered, and told from forged or replayed ones.

Both ends share the link's id and key, got by signalling. A PROBED proves that the peer is at the
address it came from, because it carries the nonce that was just sent there (path validation, RFC
9000 section 8.2). The first bit of a nonce is the sender's role, so that our own probe, thrown back
by a mirror or by a home address that happens to be ours, is not taken for the peer's. No I/O.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.datagram import (
    DATAGRAM_KEY_BYTES,
    LINK_BYTES,
    PROBE_BYTES_MIN,
    DatagramType,
    Probe,
    Probed,
    is_genuine,
)
from protocol.errors import LocalProtocolError, RemoteProtocolError
from transport.paths.path_address import PathAddress

__all__ = ["ProbeAnswered", "ProbeBook", "ProbeReceived", "SentProbe"]

_SENT_MAX: Final = 1024
"""Probes under way: a punch sends at most 25 × 16 addresses a second, plus one prediction."""

_SEEN_MAX: Final = 512
"""The peer's last nonces: a captured probe is good for nothing while it is among them."""

_ROLE_BIT: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class SentProbe:
    path: PathAddress
    size: int
    sent_at: float


@dataclass(frozen=True, slots=True)
class ProbeReceived:
    """A genuine probe of the peer; `answer` is the PROBED to send where it came from."""

    answer: bytes
    is_repeated: bool
    """The nonce was seen before: it may be a replay, so its source means nothing."""


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """The peer answered a probe of ours; the path is proved if it came from where that went."""

    sent: SentProbe


class ProbeBook:
    """Owned by one path manager. `start` seeds the nonces; keys make them unguessable."""

    def __init__(
        self, link_id: bytes, key: bytes, *, is_initiator: bool, random: Callable[[int], bytes]
    ) -> None:
        if len(link_id) != LINK_BYTES or len(key) != DATAGRAM_KEY_BYTES:
            raise LocalProtocolError("A link has an id of 8 bytes and a key of 32.")
        self._link_id = link_id
        self._key = key
        self._role = 0 if is_initiator else _ROLE_BIT
        self._next = int.from_bytes(random(8), "big")
        self._sent: OrderedDict[bytes, SentProbe] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def make(self, path: PathAddress, now: float, size: int = PROBE_BYTES_MIN) -> bytes:
        """A new PROBE of `size` bytes for `path`."""
        self._next += 1
        nonce = (self._next % _ROLE_BIT | self._role).to_bytes(8, "big")
        if len(self._sent) >= _SENT_MAX:
            self._sent.popitem(last=False)
        self._sent[nonce] = SentProbe(path, size, now)
        return Probe(self._link_id, nonce, size).encode(self._key)

    def read(self, data: bytes) -> ProbeReceived | ProbeAnswered | None:
        """What a PROBE or PROBED of this link says; None if it is forged, ours, or too late.

        Raises RemoteProtocolError if it is malformed.
        """
        kind = data[0] if data else 0
        if kind == DatagramType.PROBE:
            probe = Probe.decode(data)
            if probe.link != self._link_id or not is_genuine(data, self._key):
                return None
            return self._read_probe(probe)
        if kind != DatagramType.PROBED:
            raise RemoteProtocolError("That is neither a PROBE nor a PROBED.")
        probed = Probed.decode(data)
        if probed.link != self._link_id or not is_genuine(data, self._key):
            return None
        sent = self._sent.get(probed.nonce)
        if sent is None or sent.size != probed.size:
            return None
        del self._sent[probed.nonce]
        return ProbeAnswered(sent)

    def _read_probe(self, probe: Probe) -> ProbeReceived | None:
        if int.from_bytes(probe.nonce, "big") & _ROLE_BIT == self._role:
            return None  # our own, thrown back
        is_repeated = probe.nonce in self._seen
        if not is_repeated:
            if len(self._seen) >= _SEEN_MAX:
                self._seen.popitem(last=False)
            self._seen[probe.nonce] = None
        answer = Probed(probe.link, probe.nonce, probe.size).encode(self._key)
        return ProbeReceived(answer, is_repeated)
