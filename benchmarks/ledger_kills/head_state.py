"""What a head knows of its sessions: read from its journal when it starts, and kept by it."""

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ledger_kills.journal import Line, read_journal

__all__ = ["HeadState", "Leased"]

Place = tuple[int, int]
"""Cohort and index within it."""


@dataclass(frozen=True, slots=True)
class Leased:
    """A session whose leases were acknowledged."""

    cohort: int
    index: int
    attempt: int
    hold_id: str
    amount_nanos: int
    """Held."""
    lease_ids: tuple[str, ...]


@dataclass(slots=True)
class HeadState:
    """Everything a journal says, by place."""

    intents: dict[Place, Line] = field(default_factory=dict)
    """The newest lease request of each place, answered or not."""
    leased: dict[Place, Leased] = field(default_factory=dict)
    laid: dict[int, int] = field(default_factory=dict)
    """The last sequence of each cohort whose batches all lie in the spool."""
    closed: set[Place] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)
    """Cohorts of which every session is closed."""
    topups: dict[str, Line] = field(default_factory=dict)
    topped: set[str] = field(default_factory=set)
    """Credited, or refused for good."""
    refused: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "HeadState":
        state = cls()
        for line in read_journal(path):
            state.note(line)
        return state

    def note(self, line: Line) -> None:
        """Take one line in."""
        place = (line.get("c", -1), line.get("i", -1))
        match line["k"]:
            case "intent":
                self.intents[place] = line
            case "leased":
                self.leased[place] = Leased(
                    *place, line["a"], line["h"], line["n"], tuple(line["l"])
                )
            case "laid":
                self.laid[place[0]] = line["n"]
            case "closed":
                self.closed.add(place)
            case "cohort":
                self.finished.add(place[0])
            case "topup":
                self.topups[line["id"]] = line
            case "topped":
                self.topped.add(line["id"])
                if line.get("refused"):
                    self.refused.add(line["id"])

    def topups_of(self, cohort: int) -> list[Line]:
        """Those that were meant for this cohort."""
        return [line for line in self.topups.values() if line["c"] == cohort]
