"""Auditing the public log: does every pay follow from receipts both sides signed? Pure.

Runs on a provider's own machine with nothing but the leaves, a signed checkpoint and the
marketplace's public key: no database, no SQL. What is wrong is named with the entry it is in.
`ledger/examine.py` verifies entries by themselves, `ledger/replay.py` what they mean together.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ledger import tree
from ledger.checkpoint import Checkpoint, open_checkpoint
from ledger.cosignature import Cosignature, cosignatures_of
from ledger.errors import AuditFailed, ForkDetected
from ledger.examine import examine_all
from ledger.replay import PROBLEMS_MAX, Replay, Unjudged
from protocol.identity import PeerId
from protocol.money import Nanos

__all__ = ["PROBLEMS_MAX", "AuditReport", "Beginning", "audit", "verify_consistency"]

PROGRESS_EVERY = 1024
"""Entries between two calls of `on_progress`."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where an audit of newer entries alone begins: what was signed there, and its right edge."""

    note: str
    frontier: bytes
    """As `tree.Frontier.encode`; nothing in it is believed before it comes to the note's root."""
    proof: tuple[bytes, ...] = ()
    """RFC 6962 consistency from the note to the newer one."""
    totals: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What the book said then."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the log says, and what is wrong with it. Money in nanos."""

    ok: bool
    leaves: int
    receipts: int
    settlements: int
    credited: Mapping[PeerId, Nanos]
    """Settled by these entries, by provider."""
    charged_nanos: Nanos
    fee_nanos: Nanos
    problems: tuple[str, ...]
    """At most PROBLEMS_MAX, in the log's order."""
    size: int = 0
    """Of the signed checkpoint."""
    root: bytes = b""
    balances: int = 0
    """Balance trees among the entries."""
    since: int = 0
    """Entries before that were not read; 0: all were."""
    unjudged: Unjudged = dataclasses.field(default_factory=Unjudged)
    """What could not be judged without them."""
    parked_nanos: Nanos = 0
    """Nobody's until a ruling, by what these entries say."""
    returned_nanos: Nanos = 0
    """Given back to buyers by rulings."""
    witnesses: tuple[Cosignature, ...] = ()
    """Nodes that cosigned the checkpoint."""

    @property
    def credited_nanos(self) -> Nanos:
        return sum(self.credited.values())

    def with_problems(self, problems: Iterable[str]) -> "AuditReport":
        """The same, with what was wrong with where the entries came from, before the rest."""
        joined = (*problems, *self.problems)[:PROBLEMS_MAX]
        return dataclasses.replace(self, ok=not joined, problems=joined)


def audit(
    leaves: Iterable[bytes],
    checkpoint_note: str,
    market_key: PeerId,
    totals: Mapping[str, int] | None = None,
    *,
    older_note: str | None = None,
    origin: str | None = None,
    beginning: Beginning | None = None,
    processes: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> AuditReport:
    """Check every entry up to the checkpoint's size; never raises for what the log says.

    totals: what the book says at that size, as `SignedCheckpoint.totals` gives it: `charged_nanos`,
    `credited_nanos`, `fee_nanos`; a key that is missing is not compared.
    older_note: an earlier checkpoint the log must be a continuation of. Leaves beyond the
    checkpoint are not read. beginning: read only entries from there; what cannot be judged without
    the older ones is counted. processes: how many verify signatures. on_progress: told how many
    entries were read, now and then.
    """
    replay = Replay(from_start=beginning is None)
    try:
        checkpoint = open_checkpoint(checkpoint_note, market_key, origin=origin)
        witnesses = cosignatures_of(checkpoint_note)
        older = open_checkpoint(older_note, market_key, origin=origin) if older_note else None
        frontier = _begin(beginning, checkpoint, market_key) if beginning else tree.Frontier()
    except AuditFailed as error:
        replay.problem(str(error))
        return _report(replay, Checkpoint("", 0, b""), 0, ())
    since = frontier.size
    _check_older(replay, older, frontier)
    wanted = _until_error(_first(leaves, checkpoint.size - since), replay)
    for digest, entry in examine_all(wanted, market_key, processes=processes):
        replay.take(frontier.size, entry)
        frontier.append(digest)
        _check_older(replay, older, frontier)
        if on_progress and replay.leaves % PROGRESS_EVERY == 0:
            on_progress(replay.leaves)
    if frontier.size != checkpoint.size:
        replay.problem(
            f"log: {frontier.size - since} entries were given, {checkpoint.size - since} are signed"
        )
    elif frontier.root != checkpoint.root:
        replay.problem("log: the root of the entries is not the one that was signed")
    if older and older.size > checkpoint.size:
        replay.problem(f"log: it had {older.size} entries before, now {checkpoint.size}")
    replay.compare(_grown(totals or {}, beginning))
    return _report(replay, checkpoint, since, witnesses)


def verify_consistency(
    old_note: str, new_note: str, proof: list[bytes], market_key: PeerId
) -> tuple[Checkpoint, Checkpoint]:
    """Both checkpoints, if the log only grew between them.

    Raises AuditFailed for a bad signature, ForkDetected when both are signed and contradict: then
    the two notes together are proof of fraud that anyone can check.
    """
    old, new = open_checkpoint(old_note, market_key), open_checkpoint(new_note, market_key)
    try:
        if old.origin != new.origin:
            raise AuditFailed("the checkpoints are of different logs")
        tree.verify_consistency(old.size, old.root, new.size, new.root, proof)
    except AuditFailed as error:
        raise ForkDetected(f"Two signed checkpoints contradict one another: {error}") from None
    return old, new


def _begin(beginning: Beginning, newer: Checkpoint, market_key: PeerId) -> tree.Frontier:
    """The right edge at the beginning; raises AuditFailed unless the newer log continues it."""
    older = open_checkpoint(beginning.note, market_key, origin=newer.origin)
    tree.verify_consistency(older.size, older.root, newer.size, newer.root, beginning.proof)
    frontier = tree.Frontier(older.size, beginning.frontier)
    if frontier.root != older.root:
        raise AuditFailed(f"The right edge at {older.size} entries is not that of the older note.")
    return frontier


def _first(leaves: Iterable[bytes], count: int) -> Iterator[bytes]:
    """At most `count`; the one after them is not even asked for."""
    if count > 0:
        for position, leaf in enumerate(leaves, 1):
            yield leaf
            if position == count:
                return


def _until_error(leaves: Iterator[bytes], replay: Replay) -> Iterator[bytes]:
    """Entries from a file may end in an error, which is a problem like others."""
    try:
        yield from leaves
    except AuditFailed as error:
        replay.problem(f"file: {error}")


def _grown(totals: Mapping[str, int], beginning: Beginning | None) -> Mapping[str, int]:
    """What the book says of the entries that were read; nothing where it did not say both."""
    if beginning is None:
        return totals
    return {
        name: amount - beginning.totals[name]
        for name, amount in totals.items()
        if name in beginning.totals
    }


def _report(
    replay: Replay, checkpoint: Checkpoint, since: int, witnesses: tuple[Cosignature, ...]
) -> AuditReport:
    return AuditReport(
        ok=not replay.problems,
        leaves=replay.leaves,
        receipts=replay.receipts,
        settlements=replay.settlements,
        credited=dict(replay.credited),
        charged_nanos=replay.charged_nanos,
        fee_nanos=replay.fee_nanos,
        problems=tuple(replay.problems),
        size=checkpoint.size,
        root=checkpoint.root,
        balances=replay.balances,
        since=since,
        unjudged=replay.unjudged,
        parked_nanos=replay.disputes.parked_nanos,
        returned_nanos=replay.disputes.returned_nanos,
        witnesses=witnesses,
    )


def _check_older(replay: Replay, older: Checkpoint | None, frontier: tree.Frontier) -> None:
    if older and frontier.size == older.size and frontier.root != older.root:
        replay.problem(f"log: its first {older.size} entries are not those signed before")
