"""What the hops of a session may be paid, as the head can know it.

The head never sees what travels between two hops, yet it signs for it. So every hop meters its own
work and the hashes of both its links; the head computes the work itself (it follows from rows and
shapes), and compares each link's hash as told by its two ends. Only what agrees, and only steps
whose result has arrived, is signed.

Work and tokens count for as long as a hop's lease; steps and link hashes begin anew with an epoch.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from protocol.errors import ErrorCode, HopFailed, LocalProtocolError, RemoteProtocolError
from protocol.frame import TOKEN_BYTES, Meter, StepKind
from protocol.money import Work
from protocol.route import Route
from protocol.session import step_work
from protocol.tensor import LINK_HASH_START, WireDtype, extend_link_hash

__all__ = ["HeadAccount"]

UNPAID_STEPS_MAX = 4096
"""Steps whose totals are kept while meters are outstanding; a window is far fewer."""


@dataclass(frozen=True, slots=True)
class _Totals:
    """After a number of results: tokens and work per hop, hashes of the head's own two links."""

    tokens: tuple[int, ...]
    work: tuple[Work, ...]
    first_link_hash: bytes = LINK_HASH_START
    last_link_hash: bytes = LINK_HASH_START


class HeadAccount:
    """The account of one session. `keeps` False: nobody is paid, and only steps are counted."""

    def __init__(
        self, route: Route, hidden_size: int, wire_dtype: WireDtype, *, keeps: bool
    ) -> None:
        self.steps = 0
        """Results of this epoch."""
        self._route = route
        self._row_bytes = wire_dtype.row_bytes(hidden_size)
        self._keeps = keeps
        nothing = tuple(Work() for _ in route.hops)
        self._totals: dict[int, _Totals] = {0: _Totals(tuple(0 for _ in route.hops), nothing)}
        self._before_replay = self._totals[0]
        """As the epoch began: hops may close before all of a replay has reached them."""
        self._meters: dict[int, dict[int, Meter]] = {}

    def begin_epoch(self, route: Route, lost: Set[int]) -> None:
        """Who stays goes on counting from what has arrived; who is new begins at nothing."""
        last = self._totals[self.steps] if self.steps else self._before_replay
        stays = [index not in lost for index in range(len(route.hops))]
        self._route = route
        self.steps = 0
        start = _Totals(
            tuple(t if stay else 0 for t, stay in zip(last.tokens, stays, strict=True)),
            tuple(w if stay else Work() for w, stay in zip(last.work, stays, strict=True)),
        )
        self._totals = {0: start}
        self._before_replay = start
        self._meters.clear()

    def expect_replays(self, rows: Sequence[int]) -> None:
        """So many rows will be run again at each hop before the first step: as prefill.

        May be called again, when more is known, until the first is sent.
        """
        start = self._before_replay
        work = tuple(
            done + self._replay_work(index, count)
            for index, (done, count) in enumerate(zip(start.work, rows, strict=True))
        )
        tokens = tuple(done + count for done, count in zip(start.tokens, rows, strict=True))
        self._totals[0] = _Totals(tokens, work, start.first_link_hash, start.last_link_hash)

    def sent_replay(self, payload_sha256: bytes) -> None:
        """The head's own first link has carried a REPLAY."""
        now = self._totals[self.steps]
        self._totals[self.steps] = _Totals(
            now.tokens,
            now.work,
            extend_link_hash(now.first_link_hash, payload_sha256),
            now.last_link_hash,
        )

    def count(
        self, kind: StepKind, count: int, wanted: int, sent_sha256: bytes, result_sha256: bytes
    ) -> None:
        """A result has arrived."""
        before = self._totals[self.steps]
        work = tuple(
            done + self._step_work(index, kind, count, wanted)
            for index, done in enumerate(before.work)
        )
        self.steps += 1
        self._totals[self.steps] = _Totals(
            tuple(done + count for done in before.tokens),
            work,
            extend_link_hash(before.first_link_hash, sent_sha256),
            extend_link_hash(before.last_link_hash, result_sha256),
        )
        if not self._keeps:
            del self._totals[self.steps - 1]
        elif len(self._totals) > UNPAID_STEPS_MAX:
            raise LocalProtocolError("Meters are outstanding for too many steps.")

    def keep(self, hop_index: int, meter: Meter) -> None:
        """Raises RemoteProtocolError for steps that are compared already, and out of memory."""
        if meter.steps < min(self._totals):
            raise RemoteProtocolError("METER for steps that have been paid.")
        self._meters.setdefault(meter.steps, {})[hop_index] = meter

    def drop_meters(self) -> None:
        self._meters.clear()

    def payable(self, gone: Set[int]) -> list[tuple[int, Meter]]:
        """See HeadSession.payable."""
        due: list[tuple[int, Meter]] = []
        for steps in sorted(self._meters):
            meters = self._meters[steps]
            # one that never becomes complete holds up nobody: later ones cover it
            if steps > self.steps or len(meters.keys() | gone) < len(self._route.hops):
                continue
            self._compare(steps, meters)
            due.extend(sorted(meters.items()))
            self._meters = {n: m for n, m in self._meters.items() if n > steps}
            self._totals = {n: t for n, t in self._totals.items() if n >= steps}
        return due

    def _compare(self, steps: int, meters: dict[int, Meter]) -> None:
        totals = self._totals[steps]
        incoming: bytes | None = totals.first_link_hash
        for index in range(len(self._route.hops)):
            meter = meters.get(index)
            if meter is None:
                incoming = None
                continue
            if steps == 0 and self._is_part_of_replay(index, meter):
                incoming = None  # hashes are those of an unfinished replay
                continue
            if meter.work != totals.work[index] or meter.tokens != totals.tokens[index]:
                raise self._dishonest(index, "it metered other work than was done")
            if incoming is not None and meter.link_in_hash != incoming:
                raise self._dishonest(index, "its incoming link's hash is not the sender's")
            incoming = meter.link_out_hash
        if incoming is not None and incoming != totals.last_link_hash:
            last = len(self._route.hops) - 1
            raise self._dishonest(last, "it metered another output than arrived")

    def _is_part_of_replay(self, index: int, meter: Meter) -> bool:
        """Whether a hop that closed before the first result tells a true part of its replay."""
        before, full = self._before_replay, self._totals[0]
        replayed = meter.tokens - before.tokens[index]
        return (
            0 <= replayed <= full.tokens[index] - before.tokens[index]
            and full.tokens[index] > before.tokens[index]
            and meter.work == before.work[index] + self._replay_work(index, replayed)
        )

    def _row_in(self, index: int) -> int:
        return self._row_bytes if index > 0 or self._route.sealed else TOKEN_BYTES

    def _replay_work(self, index: int, rows: int) -> Work:
        layers = len(self._route.hops[index].span)
        in_bytes = rows * self._row_in(index)
        return step_work(StepKind.PREFILL, rows, layers, bytes_in=in_bytes, bytes_out=0)

    def _step_work(self, index: int, kind: StepKind, count: int, wanted: int) -> Work:
        last = index == len(self._route.hops) - 1
        row_out = self._row_bytes if not last or self._route.sealed else TOKEN_BYTES
        return step_work(
            kind,
            count,
            len(self._route.hops[index].span),
            bytes_in=count * self._row_in(index),
            bytes_out=(wanted if last else count) * row_out,
        )

    def _dishonest(self, index: int, reason: str) -> HopFailed:
        peer = self._route.hops[index].peer_id.short
        return HopFailed(index, peer, ErrorCode.MALFORMED, reason)
