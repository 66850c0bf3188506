"""The reflector: tells a node from which address its data socket's datagrams come. Pure.

What STUN's Binding is (RFC 8489), in one datagram each way that is never longer than its question.
Asked so, the answer comes from the relay's other port: a node then knows whether its NAT lets in
what it did not send to (RFC 5780, section 4).
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from protocol.datagram import Reflect, Reflected
from protocol.errors import RemoteProtocolError
from relay.resources import ReflectorLimits
from relay.token_bucket import TokenBucket
from relay.usage import DropReason
from transport.udp.udp_socket import SocketAddress

__all__ = ["Reflection", "Reflector"]

_IPV6_SITE_BYTES = 8
"""A /64: what one household has at least, and may change its address within at will."""


@dataclass(frozen=True, slots=True)
class Reflection:
    """What to send back to the source."""

    data: bytes
    is_from_other_port: bool


class Reflector:
    """Answers within its limits; `now` is monotonic seconds."""

    def __init__(self, limits: ReflectorLimits, *, has_other_port: bool, now: float) -> None:
        self._limits = limits
        self._has_other_port = has_other_port
        self._all = TokenBucket(limits.answers_per_s, limits.answers_per_s, now)
        self._hosts: OrderedDict[str | bytes, TokenBucket] = OrderedDict()
        """By IPv4 address or IPv6 /64; the longest unheard first."""
        self.answered = 0

    def __len__(self) -> int:
        return len(self._hosts)

    def answer(self, data: bytes, source: SocketAddress, now: float) -> Reflection | DropReason:
        """To a REFLECT from `source`; or why there is none."""
        try:
            reflect = Reflect.decode(data)
        except RemoteProtocolError:
            return DropReason.MALFORMED
        host = source[0].removeprefix("::ffff:") if "." in source[0] else source[0]
        if not self._may_answer(host, now):
            return DropReason.REFLECT_RATE
        self.answered += 1
        is_from_other_port = reflect.from_other_port and self._has_other_port
        reflected = Reflected(
            reflect.transaction,
            host.partition("%")[0],
            source[1],
            from_other_port=is_from_other_port,
            has_other_port=self._has_other_port,
        )
        return Reflection(reflected.encode(), is_from_other_port)

    def _may_answer(self, host: str, now: float) -> bool:
        limits = self._limits
        key = _site(host) if ":" in host else host
        bucket = self._hosts.get(key)
        if bucket is None:
            if len(self._hosts) >= limits.hosts_max:
                self._hosts.popitem(last=False)
            bucket = self._hosts[key] = TokenBucket(
                limits.answers_per_host_per_s, limits.answers_per_host_burst, now
            )
        self._hosts.move_to_end(key)
        # the host's first: one that floods must not use up what all share
        return bucket.take(1, now) and self._all.take(1, now)


def _site(host: str) -> bytes:
    return ipaddress.IPv6Address(host.partition("%")[0]).packed[:_IPV6_SITE_BYTES]
