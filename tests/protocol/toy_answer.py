"""A toy head that writes a greedy answer: with drafts, loops and rows that are taken back.

What it learns from results is compared with the truth.
"""

from collections import deque
from collections.abc import Sequence

from protocol.frame import Result, Step, StepKind
from protocol.session import STEPS_IN_FLIGHT_MAX, SessionState
from protocol.tensor import payload_hash
from protocol.tickets import StepTicket
from tests.protocol.toy_head import SESSION, ToyHead
from tests.protocol.toy_model import (
    DTYPE,
    HIDDEN,
    ROW_BYTES,
    VOCABULARY,
    draw,
    embed,
    rows_of,
    token_bytes,
)


class ToyAnswer(ToyHead):
    """Of a prompt of so many rows, which are the first of the truth."""

    def __init__(self, *args, prompt_rows: int, **fields) -> None:
        super().__init__(*args, **fields)
        self.prompt_rows = prompt_rows
        self.known = prompt_rows
        """Leading tokens of the truth that results have told, with the prompt's."""
        self.unread: deque[tuple[int, list[int]]] = deque()
        """Results that have come: the first row that one is of, and the tokens that it tells."""
        self.truncations = 0

    @property
    def can_truncate(self) -> bool:
        is_ready = self.state is SessionState.READY and self._has_begun
        return is_ready and self.looping_from is None

    @property
    def capacity(self) -> int:
        """Rows that may be sent now."""
        funded = self.session.funded_rows
        return self._capacity if funded is None else min(self._capacity, funded)

    @property
    def can_step(self) -> bool:
        return self.can_truncate and self.session.in_flight < STEPS_IN_FLIGHT_MAX

    def step(self, count: int, right: Sequence[bool], wanted: int = 0) -> None:
        """Send the next rows: of the prompt, else the last token and drafts, `right` or wrong."""
        start = self.session.position
        count = min(count, self.capacity - start)
        if not self.can_step or count <= 0:
            return
        if start < self.prompt_rows:
            rows = min(count * max(1, self.prompt_rows // 8), self.capacity - start)
            tokens = self.truth.prefix(self.prompt_rows)[start : start + rows]
            ends_prompt = start + len(tokens) == self.prompt_rows
            self._send(StepKind.PREFILL, tokens, max(int(ends_prompt), min(wanted, len(tokens))))
            return
        tokens = [
            self.truth[p] + (p >= self.known and not right[p % len(right)])
            for p in range(start, start + count)
        ]
        kind = StepKind.DECODE if count == 1 else StepKind.VERIFY
        self._send(kind, [token % VOCABULARY for token in tokens], count)

    def loop(self, count: int) -> None:
        """Let the last hop go on by itself."""
        start = self.session.position
        is_right = self.sent == self.truth.prefix(start)
        if (
            self._sealed
            or not self.can_step
            or not is_right
            or not (self.prompt_rows - 1 <= start < min(self.known, self.capacity))
        ):
            return
        if self.session.funded_rows is not None:
            count = min(count, self.capacity - start - 1)
        self.looping_from = start
        self._send(StepKind.DECODE, [self.truth[start]], 1, loop=count)

    def truncate(self, position: int) -> None:
        """Raises LocalProtocolError where HeadSession does; then nothing has changed."""
        if self.can_truncate:
            frame = self.session.send_truncate(min(position, self.session.position))
            self.truncations += 1
            self._rows.send(frame)
            del self.sent[frame.position :]
            # of what has come and was not looked at, the same rows are void
            self.unread = deque(
                (first, tokens[: frame.position - first])
                for first, tokens in self.unread
                if first < frame.position
            )

    def _send(self, kind: StepKind, tokens: Sequence[int], wanted: int, *, loop: int = 0) -> None:
        payload = embed(tokens) if self._sealed else token_bytes(tokens)
        digest = payload_hash(payload)
        ticket = self.session.send_step(kind, len(tokens), wanted, digest, loop=loop)
        self.sent.extend(tokens)
        self._rows.send(
            Step(
                SESSION, self.session.epoch, kind, ticket.position, ticket.count, wanted,
                DTYPE if self._sealed else None, HIDDEN if self._sealed else 0, payload, digest,
                loop,
            )
        )  # fmt: skip

    def take_rows(self, ticket: StepTicket, frame: Result) -> None:
        rows = rows_of(frame.payload, ROW_BYTES if self._sealed else 4)
        tokens = [draw(row) if self._sealed else int.from_bytes(row, "little") for row in rows]
        if frame.loop:
            self.sent.append(tokens[-1])
        elif self.looping_from is not None and ticket.position >= self.looping_from:
            self.looping_from = None
        self.unread.append((ticket.position + ticket.count - ticket.wanted, tokens))

    def read(self) -> bool:
        """Look at the results that have come; True where a draft was wrong and is taken back."""
        while self.unread and self.can_truncate:
            first, tokens = self.unread.popleft()
            for position, token in enumerate(tokens, start=first + 1):
                if self.sent[:position] != self.truth.prefix(position):
                    break  # it rests on a draft that was wrong
                assert token == self.truth[position], "another token than in an undisturbed run"
                self.known = max(self.known, position + 1)
                if position < len(self.sent) and self.sent[position] != token:
                    self.truncate(position)
                    return True
        return False
