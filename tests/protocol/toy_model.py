"""A model of a few hashes: every row's value rests on all rows below it, and a hop's log of rows.

So a row that is lost, doubled or out of place in any engine changes every token that follows, and
one comparison with an undisturbed run tells that nothing of the kind has happened.
"""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise

from protocol.route import Span
from protocol.tensor import WireDtype

HIDDEN = 4
DTYPE = WireDtype.FP32
ROW_BYTES = DTYPE.row_bytes(HIDDEN)
VOCABULARY = 150


def token_bytes(tokens: Sequence[int]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)


def embed(tokens: Sequence[int]) -> bytes:
    """What the head of a sealed route sends for these tokens."""
    return b"".join(_hash(b"embed", token_bytes((token,))) for token in tokens)


def draw(row: bytes) -> int:
    """The token that a row of the last hop yields."""
    return int.from_bytes(row[:4], "little") % VOCABULARY


def rows_of(payload: bytes, row_bytes: int) -> list[bytes]:
    return [payload[at : at + row_bytes] for at in range(0, len(payload), row_bytes)]


def cut(layers: int, hop_count: int) -> list[Span]:
    """The model's layers in that many spans."""
    marks = [layers * n // hop_count for n in range(hop_count + 1)]
    return [Span(start, end) for start, end in pairwise(marks)]


class ToyEngine:
    """KV of one sequence at one hop: one state a row, chained."""

    def __init__(self, span: Span) -> None:
        self._span = b"%d" % span.start
        self._states = [b""]

    @property
    def rows(self) -> int:
        return len(self._states) - 1

    def run(self, position: int, inputs: Sequence[bytes]) -> list[bytes]:
        """Append rows; gives what the next hop gets. A real engine refuses rows out of place."""
        assert position == self.rows, f"rows at {position}, but the engine holds {self.rows}"
        outputs = []
        for row in inputs:
            self._states.append(_hash(self._states[-1], row))
            outputs.append(_hash(self._span, self._states[-1]))
        return outputs

    def truncate(self, position: int) -> None:
        del self._states[position + 1 :]


class ToyLog:
    """What a hop has sent on, row by row, for replays; at most `rows_max` of them are kept."""

    def __init__(self, rows_max: int) -> None:
        self.start = 0
        """The first row it can give."""
        self._rows: list[bytes] = []
        self._rows_max = rows_max

    @property
    def end(self) -> int:
        return self.start + len(self._rows)

    def append(self, position: int, rows: Sequence[bytes]) -> None:
        assert position == self.end, f"rows at {position} behind a log that ends at {self.end}"
        self._rows.extend(rows)
        surplus = max(0, len(self._rows) - self._rows_max)
        del self._rows[:surplus]
        self.start += surplus

    def truncate(self, position: int) -> None:
        del self._rows[max(0, position - self.start) :]
        self.start = min(self.start, position)

    def begin(self, position: int) -> None:
        """Nothing is kept of the rows before."""
        self.start, self._rows = position, []

    def rows(self, start: int, end: int) -> list[bytes]:
        assert self.start <= start <= end <= self.end
        return self._rows[start - self.start : end - self.start]


class Truth:
    """What the whole model says of any tokens, and its greedy answer to one prompt."""

    def __init__(self, prompt: Sequence[int], spans: Sequence[Span], *, sealed: bool) -> None:
        self._engines = [ToyEngine(span) for span in spans]
        self._sealed = sealed
        self.tokens = list(prompt)

    def __getitem__(self, position: int) -> int:
        while len(self.tokens) <= position:
            self._grow()
        return self.tokens[position]

    def __len__(self) -> int:
        return len(self.tokens)

    def prefix(self, length: int) -> list[int]:
        if length:
            self[length - 1]
        return self.tokens[:length]

    def _grow(self) -> None:
        start = self._engines[0].rows
        fresh = self.tokens[start:]
        payload, size = (embed(fresh), ROW_BYTES) if self._sealed else (token_bytes(fresh), 4)
        rows = rows_of(payload, size)
        for engine in self._engines:
            rows = engine.run(start, rows)
        self.tokens.append(draw(rows[-1]))


def _hash(*parts: bytes) -> bytes:
    return blake2b(b"".join(parts), digest_size=ROW_BYTES).digest()
