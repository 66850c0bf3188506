"""MachineRecord: what one machine of a private cluster says of itself, and the plan it follows.

Signed by the machine, newest sequence wins, renewed every few seconds. The clocks of a house differ
by more than such a record lives, so a receiver counts `lifetime_s` from when it came, not to
`expires_at_s`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.limits import HOPS_MAX, LAYERS_MAX, NAME_BYTES_MAX
from protocol.route import Span

__all__ = [
    "ADDRESSES_MAX",
    "MACHINE_LIFETIME_MAX_S",
    "Assignment",
    "ClusterPlan",
    "Holding",
    "MachineRecord",
    "MachineState",
    "Room",
]

MACHINE_LIFETIME_MAX_S: Final = 60
"""A record that claims to hold for longer is refused: the dead must be forgotten."""

ADDRESSES_MAX: Final = 16
BACKENDS_MAX: Final = 8
LABEL_BYTES_MAX: Final = 64
"""A machine's name, a backend, a version: they stand in tables."""
HASH_BYTES: Final = 32


class MachineState(StrEnum):
    """What a machine is doing about its span."""

    WAITING = "waiting"
    """No span is wanted of it now: others hold the model, or all together cannot."""
    FETCHING = "fetching"
    LOADING = "loading"
    SERVING = "serving"
    FAILED = "failed"
    """It could not load; others have to."""
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Room:
    """How many layers of its model a machine can hold, by what else it holds with them."""

    layers: int
    """In the middle of a route."""
    beside_end: int
    """With the embedding, or with the final norm and LM head."""
    with_ends: int
    """With both: the whole model fits if this is all its layers."""

    def __post_init__(self) -> None:
        if not 0 <= self.with_ends <= self.beside_end <= self.layers <= LAYERS_MAX:
            raise RemoteProtocolError("A machine's room for layers is out of range.")


@dataclass(frozen=True, slots=True)
class Holding:
    """A span that is loaded and answers sessions now; its ends follow from where it lies."""

    span: Span
    backend: str
    kv_tokens: int

    def __post_init__(self) -> None:
        _check_label(self.backend)
        if len(self.span) == 0 or self.kv_tokens <= 0:
            raise RemoteProtocolError("A holding has layers and room for tokens.")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One machine's part in a plan."""

    peer_id: PeerId
    span: Span


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """Who holds which layers of one model. The assignments tile [0, layers) in order."""

    epoch: int
    """Grows with every plan made; of two plans that both can be followed the later is."""
    manifest_hash: bytes
    layers: int
    assignments: tuple[Assignment, ...]

    def __post_init__(self) -> None:
        if self.epoch <= 0 or len(self.manifest_hash) != HASH_BYTES:
            raise RemoteProtocolError("A plan has an epoch above 0 and a manifest's hash.")
        if not 0 < len(self.assignments) <= HOPS_MAX or not 0 < self.layers <= LAYERS_MAX:
            raise RemoteProtocolError(f"A plan has between 1 and {HOPS_MAX} assignments.")
        if len({a.peer_id for a in self.assignments}) != len(self.assignments):
            raise RemoteProtocolError("A plan names no machine twice.")
        position = 0
        for assignment in self.assignments:
            if assignment.span.start != position or len(assignment.span) == 0:
                raise RemoteProtocolError(f"The plan leaves layer {position} to nobody.")
            position = assignment.span.end
        if position != self.layers:
            raise RemoteProtocolError(f"The plan ends at layer {position} of {self.layers}.")

    def span_of(self, peer_id: PeerId) -> Span | None:
        """The machine's span, or None where it is not needed."""
        return next((a.span for a in self.assignments if a.peer_id == peer_id), None)


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """Signed by the machine; nothing in it is trusted further than its own conduct."""

    DOMAIN: ClassVar[str] = "piecework/machine/v1"

    peer_id: PeerId
    sequence: int
    joined_at_ms: int
    """Unix time at its start: orders machines, and tells a restarted one from its former self."""
    name: str
    version: str
    addresses: tuple[str, ...]
    api_port: int
    """Where its API listens, if other machines may use it; 0 if not."""
    memory_bytes: int
    """What its owner gives."""
    backends: tuple[str, ...]
    model: str
    state: MachineState
    done_percent: int
    """Of fetching."""
    token_layers_per_s: int
    """Measured while it decoded; 0 as long as it was not."""
    rows_per_s: int
    """Rows through its span of late."""
    spread: bool
    """Its owner asked for the model to be spread over all machines."""
    issued_at_s: int
    expires_at_s: int
    manifest_hash: bytes | None = None
    """None until it knows the model exactly."""
    room: Room | None = None
    """None: no layers are to be placed here."""
    holding: Holding | None = None
    plan: ClusterPlan | None = None

    def __post_init__(self) -> None:
        if not 0 < self.lifetime_s <= MACHINE_LIFETIME_MAX_S:
            raise RemoteProtocolError(
                f"A machine's record lives at most {MACHINE_LIFETIME_MAX_S} s."
            )
        if len(self.addresses) > ADDRESSES_MAX or len(self.backends) > BACKENDS_MAX:
            raise RemoteProtocolError(f"A machine names at most {ADDRESSES_MAX} addresses.")
        for label in (self.name, self.version, *self.backends):
            _check_label(label)
        if any(len(text.encode()) > NAME_BYTES_MAX for text in (self.model, *self.addresses)):
            raise RemoteProtocolError(f"A name or an address has at most {NAME_BYTES_MAX} bytes.")
        numbers = (self.sequence, self.joined_at_ms, self.memory_bytes, self.rows_per_s)
        if min(*numbers, self.token_layers_per_s) < 0:
            raise RemoteProtocolError("A machine's numbers are not negative.")
        if not 0 <= self.done_percent <= 100 or not 0 <= self.api_port < 65536:
            raise RemoteProtocolError("A machine's share done or its port is out of range.")
        if self.manifest_hash is not None and len(self.manifest_hash) != HASH_BYTES:
            raise RemoteProtocolError("A manifest's hash is a SHA-256.")

    @property
    def lifetime_s(self) -> int:
        return self.expires_at_s - self.issued_at_s


def _check_label(text: str) -> None:
    if len(text.encode()) > LABEL_BYTES_MAX or not text.isprintable():
        raise RemoteProtocolError(f"A label has at most {LABEL_BYTES_MAX} printable bytes.")
