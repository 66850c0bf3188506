"""How many rows of a session its head has paid for, and an extension on its way to every hop.

funded  ├───────────┤
asked   ├───────────┼──────────┤     funded once every hop has confirmed its part of it
"""

from collections.abc import Sequence

from protocol.errors import LocalProtocolError
from protocol.money import Nanos

__all__ = ["HeadFunding"]


class HeadFunding:
    """Of one session. `rows`: what the leases of its hops pay for; None: as many as fit."""

    def __init__(self, rows: int | None) -> None:
        self.rows = rows
        """Every hop has confirmed that it is paid for so many: none is sent beyond."""
        self._asked = 0
        self._missing: dict[int, Nanos] | None = None
        """Of the extension under way: by hop, what it has yet to confirm."""

    def check(self, rows: int) -> None:
        """Raise LocalProtocolError where so many rows are not paid for."""
        if self.rows is not None and rows > self.rows:
            raise LocalProtocolError(f"Only {self.rows} rows are paid for.")

    def ask(self, rows: int, amounts: Sequence[Nanos]) -> None:
        """Higher limits are leaving for every hop; `amounts` are those of the new leases.

        What was under way before is void. Raises LocalProtocolError where less is asked for.
        """
        if self.rows is None or rows < self.rows:
            raise LocalProtocolError("What is funded whole needs no extension.")
        self._asked, self._missing = rows, dict(enumerate(amounts))

    def confirm(self, hop_index: int, amount_nanos_max: Nanos) -> bool:
        """A hop works up to so much; True when all do, and the rows are funded."""
        if self._missing is None or amount_nanos_max < self._missing.get(hop_index, 0):
            return False  # the answer to an earlier one
        self._missing.pop(hop_index, None)
        if self._missing:
            return False
        self.rows, self._missing = self._asked, None
        return True

    def drop(self) -> None:
        """A repair has overtaken what was under way: nothing of it is taken."""
        self._missing = None
