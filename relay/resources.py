"""Every limit of a relay, by name and with its reason: what strangers may cost whoever runs it.

`Resources` is what the program is given; the defaults suit a small rented machine with two cores,
2 GB of memory and an uplink of a gigabit.
"""

from dataclasses import dataclass, field, fields

__all__ = ["CircuitLimits", "ForwarderLimits", "ReflectorLimits", "RendezvousLimits", "Resources"]

_MIB = 1024 * 1024
_GIB = 1024 * _MIB


@dataclass(frozen=True, slots=True)
class _Limits:
    """Every field is above zero; None, where a field may have it, is no limit."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and value <= 0:
                raise ValueError(f"The limit {each.name} must be above 0, not {value}.")


@dataclass(frozen=True, slots=True)
class CircuitLimits(_Limits):
    """Circuit relay v2: slots on the control plane, and byte streams where UDP is blocked."""

    reservations_max: int = 4096
    """Nodes that can be reached through this relay. Each is an idle connection of about 60 KB."""

    reservations_per_host_max: int = 64
    """From one IPv4 address or IPv6 /64: a household, or one carrier's NAT, not one attacker."""

    reservation_duration_s: int = 3600
    """The specification's default; a node renews before."""

    circuits_max: int = 2048
    """At once. Most carry signalling only and end when a direct path is found."""

    circuits_per_peer_max: int = 64
    """As either end: a head has one to each hop of its routes (HOPS_MAX is 64)."""

    circuits_per_host_max: int = 512
    """Called from one IPv4 address or IPv6 /64, by however many peers: a quarter of all."""

    circuit_duration_s: int = 24 * 3600
    """A session over TCP may last a working day where UDP is blocked."""

    circuit_idle_s: float = 600.0
    """Without a byte either way. Muxers of living ends ping: ours every 5 s, go's every 30 s."""

    circuit_bytes_max: int = 64 * _GIB
    """Each way. A day of decoding at hidden 8192 is about 20 GiB; prefill adds to it."""

    circuit_buffer_bytes: int = 64 * 1024
    """What one direction may hold between its two streams: 256 MB if all circuits were stuck."""

    requests_per_peer_per_s: float = 4.0
    """Of RESERVE, CONNECT, forwards and rendezvous together; a node makes a few a minute."""

    requests_per_peer_burst: int = 256
    """A head that joins calls 64 hops and asks for a UDP circuit to each."""

    requests_peers_max: int = 16_384
    """Peers whose rate is remembered, about 300 B each; the longest unheard is forgotten."""

    connect_timeout_s: float = 10.0
    """The peer that is called must accept by then."""

    handshake_timeout_s: float = 10.0
    """A stream that has not sent its request by then is reset."""

    streams_per_peer_max: int = 256
    """Streams one connection may have open: two a circuit, and room for requests."""

    connections_max: int = 8192
    """Control connections in all, reserved or not."""


@dataclass(frozen=True, slots=True)
class RendezvousLimits(_Limits):
    """Signed records kept for whoever asks."""

    records_max: int = 16_384
    """In all; at most 4 KiB each, so 64 MB, and typically under 1 KiB."""

    records_per_peer_max: int = 8
    """A peer is in few clusters."""

    record_lifetime_s: int = 2 * 3600
    """What says that it holds longer is refused: a record is renewed, not left behind."""

    idle_s: float = 60.0
    """A stream on which nothing is asked for so long is reset."""

    answers_max: int = 256
    """Being sent at once, 64 KiB each at most: slow readers hold 16 MB of us."""

    send_timeout_s: float = 10.0
    """Who has not taken an answer by then is reset."""


@dataclass(frozen=True, slots=True)
class ForwarderLimits(_Limits):
    """Circuits of the UDP forwarder, which carry QUIC datagrams between two bound addresses."""

    circuits_max: int = 16_384
    """In all; about 2 KB each, so 32 MB."""

    circuits_per_peer_max: int = 128
    """That a peer owns: one to each of 64 hops, and as many again while old ones run out."""

    circuits_per_host_max: int = 4096
    """Asked for from one IPv4 address or IPv6 /64, by however many peers: a quarter of all."""

    idle_s: float = 120.0
    """Nothing carried and no side bound for so long ends a circuit; nodes probe every 5 s."""

    bytes_per_s_max: int = 32 * _MIB
    """Of all circuits that a peer owns, both ways together: above any home uplink."""

    burst_bytes: int = 16 * _MIB
    """What may come at once: a congestion window of 100 Mbit/s at 200 ms is 2.5 MB."""

    grace_s: float = 30.0
    """A circuit outlives its owner's broken control stream by this: a home router reboots."""

    month_bytes_max: int | None = None
    """Of all circuits that a peer owns, in 30 days. Counted in memory: a restart forgets it."""

    peers_max: int = 65_536
    """Peers whose usage is kept, about 500 B each. Above two per circuit, so none in use goes."""

    def __post_init__(self) -> None:
        _Limits.__post_init__(self)
        if self.peers_max < 2 * self.circuits_max:
            raise ValueError("peers_max must be at least twice circuits_max: a circuit has two.")


@dataclass(frozen=True, slots=True)
class ReflectorLimits(_Limits):
    """Answers to "which address do I come from?"; never longer than the question."""

    answers_per_host_per_s: float = 20.0
    """To one IPv4 address or IPv6 /64. A node asks twice per relay and a few times per move."""

    answers_per_host_burst: int = 60
    """A household whose machines all start at once."""

    answers_per_s: float = 5000.0
    """To all: whoever forges many sources gets this much from us and no more, about 4 % of a core.
    """

    hosts_max: int = 16_384
    """Hosts whose rate is remembered, about 300 B each; the longest unheard is forgotten."""


@dataclass(frozen=True, slots=True)
class Resources:
    """All of a relay's limits."""

    circuits: CircuitLimits = field(default_factory=CircuitLimits)
    forwarder: ForwarderLimits = field(default_factory=ForwarderLimits)
    reflector: ReflectorLimits = field(default_factory=ReflectorLimits)
    rendezvous: RendezvousLimits = field(default_factory=RendezvousLimits)
