"""What one session holds at this hop through all its epochs: its rows, its log, its counts."""

import asyncio
from dataclasses import dataclass, field

from node.engine.runner import EngineRunner
from node.serve.admission import Admission
from node.serve.collector import Collector
from node.serve.head_stream import HeadStream
from node.serve.links import LinkBoard
from node.serve.replay_log import ReplayBudget, ReplayLog
from protocol.frame import Open, Opened
from protocol.hop_session import HopSession
from protocol.lease import Lease
from transport.base import Host

__all__ = ["HopState", "LinkBytes", "ServerParts"]


@dataclass(frozen=True, slots=True)
class ServerParts:
    """What all sessions of one server share."""

    host: Host
    runner: EngineRunner
    admission: Admission
    collector: Collector | None
    backend: str
    links: LinkBoard
    replay_budget: ReplayBudget


@dataclass(slots=True)
class LinkBytes:
    """Activation payload bytes counted at the streams themselves, apart from any receipt."""

    received: int = 0
    sent: int = 0


@dataclass(slots=True)
class HopState:
    """Owned by the session's HopDriver; the epoch under way changes it too, and no other."""

    parts: ServerParts
    head: HeadStream
    sequence_id: int
    session: HopSession
    lease: Lease | None
    has_sequence: bool = False
    """Whether the engine may know `sequence_id`: an opening that was cancelled counts."""
    is_engine_open: bool = False
    """Whether the engine has begun the sequence for certain."""
    log: ReplayLog | None = None
    """What was sent to the next hop; None at the last hop, whose next is the head."""
    carried_bytes: LinkBytes = field(default_factory=LinkBytes)
    rows_out: int = 0
    """Position behind the last row that was handed to the link onward."""
    paid: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a receipt has come."""
    was_ready: bool = False
    """Whether it ever was a session, and not a refusal."""
    path_kind: str = ""
    """Of the way onward, for the status page."""

    @property
    def request(self) -> Open:
        """The OPEN of the epoch under way."""
        return self.session.open

    @property
    def lease_key(self) -> bytes:
        """Sequences with one key share their turns at the engine."""
        return self.lease.lease_id if self.lease else self.request.session_id

    @property
    def samples(self) -> bool:
        """Whether this hop ends an open route, and so draws tokens."""
        return self.request.is_last and not self.request.sealed

    @property
    def row_bytes(self) -> int:
        """Of one row as it travels between hops."""
        return self.request.wire_dtype.row_bytes(self.parts.runner.info.hidden_size)

    def start_log(self, rows: int) -> None:
        """Log what is sent on from now; `rows` are here already and were not sent by us."""
        self.end_log()
        if not self.request.is_last:
            self.log = ReplayLog(self.row_bytes, self.parts.replay_budget, start=rows)

    def end_log(self) -> None:
        if self.log is not None:
            self.log.close()

    def opened(self) -> Opened:
        """What the head is told once this hop is ready."""
        request = self.request
        return Opened(
            request.session_id, request.epoch, request.hop_index, self.parts.backend,
            self.path_kind, self.session.rows, self.log.first if self.log else 0,
        )  # fmt: skip
