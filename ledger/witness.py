"""A witness: cosigns what continues all it has seen of a log, and nothing else. Pure.

Its state is the last note it cosigned. Whoever drives it makes the new state durable *before* the
cosignature leaves the machine: a witness that forgets can be shown another history.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.checkpoint import Checkpoint, open_checkpoint, split_note
from ledger.cosignature import cosign
from ledger.errors import AuditFailed
from ledger.fork import ForkProof, ForkProven
from ledger.tree import (
    EMPTY_ROOT,
    SubtreeRoot,
    consistency_hashes,
    consistency_roots,
    verify_consistency,
)
from protocol.identity import KeyPair, PeerId

__all__ = ["Observed", "WitnessState", "observe", "prove_fork"]


@dataclass(frozen=True, slots=True)
class WitnessState:
    """What a witness has seen of one log: the last note, opened. `note` is its only content."""

    origin: str
    size: int
    root: bytes
    note: str

    @classmethod
    def of(cls, note: str, key: PeerId, *, origin: str | None = None) -> "WitnessState":
        """From a note that was kept; raises AuditFailed if it is not the log's."""
        opened = open_checkpoint(note, key, origin=origin)
        return cls(opened.origin, opened.size, opened.root, note)


@dataclass(frozen=True, slots=True)
class Observed:
    """A checkpoint that continues the last: what to keep, then what to send."""

    state: WitnessState
    line: str
    """The cosignature, without its newline."""


def observe(
    state: WitnessState | None,
    note: str,
    proof: Sequence[bytes],
    *,
    log_key: PeerId,
    witness: KeyPair,
    now_s: int,
    origin: str | None = None,
) -> Observed:
    """Cosign a note if `proof` shows that it continues the last.

    proof: RFC 6962 consistency from `state.size`; empty at the first note and at the same size.
    Raises AuditFailed for a note or a proof that is not good, and ForkProven (with a proof that
    others can check) where the log contradicts itself: nothing is signed then.
    """
    new = open_checkpoint(note, log_key, origin=state.origin if state else origin)
    if new.size == 0 and new.root != EMPTY_ROOT:
        raise AuditFailed("The checkpoint of an empty log has a root of its own.")
    if state is not None:
        _check_continues(state, new, note, proof)
    text, _ = split_note(note)
    kept = WitnessState(new.origin, new.size, new.root, note)
    return Observed(kept, cosign(text, witness, now_s))


def prove_fork(state: WitnessState, note: str, log_key: PeerId, subtree: SubtreeRoot) -> None:
    """Raise ForkProven if the tree under a newer note, read from its tiles, shows the fork.

    For a log that gives no consistency proof that tells anything: its tiles must come to the root
    it signed, and then they say what its beginning is.
    """
    new = open_checkpoint(note, log_key, origin=state.origin)
    if not 0 < state.size < new.size:
        return
    hashes = consistency_hashes(state.size, new.size, subtree)
    old_root, root = consistency_roots(state.size, new.size, hashes)
    if root == new.root and old_root != state.root:
        raise _forked(state, new, note, hashes)


def _check_continues(
    state: WitnessState, new: Checkpoint, note: str, proof: Sequence[bytes]
) -> None:
    if new.size == state.size and new.root != state.root:
        raise _forked(state, new, note, ())
    if new.size < state.size:
        raise AuditFailed(
            f"The log had {state.size} entries before and shows {new.size} now; nothing is signed."
        )
    try:
        verify_consistency(state.size, state.root, new.size, new.root, proof)
    except AuditFailed:
        if 0 < state.size < new.size and state.size.bit_count() > 1:
            # such a proof takes nothing from the older root; if it comes to the newer, it tells all
            old_root, root = consistency_roots(state.size, new.size, proof)
            if root == new.root and old_root != state.root:
                raise _forked(state, new, note, proof) from None
        raise


def _forked(state: WitnessState, new: Checkpoint, note: str, hashes: Sequence[bytes]) -> ForkProven:
    return ForkProven(
        f"The log '{new.origin}' signed {state.size} entries and {new.size} entries that"
        " contradict one another.",
        ForkProof(state.note, note, tuple(hashes)),
    )
