"""A device code on the terminal's error stream: the address, the code, the time that is left."""

from rich.console import Console
from rich.panel import Panel
from rich.status import Status
from rich.text import Text

from node.account_client import DeviceCode

__all__ = ["TerminalScreen"]


class TerminalScreen:
    """Where a person reads the code. `why`: what approving it does."""

    def __init__(self, why: str, console: Console | None = None) -> None:
        self._why = why
        self._console = console or Console(stderr=True)
        self._status: Status | None = None

    def show(self, code: DeviceCode) -> None:
        text = Text()
        text.append(f"{self._why}\n\n")
        text.append("Open   ")
        text.append(code.address, style="underline cyan")
        text.append("\nEnter  ")
        text.append(code.user_code, style="bold green")
        text.append(f"\n\nor open it at once: {code.address_with_code}", style="dim")
        # an address that is cut in two by the frame can neither be clicked nor copied
        width = max(len(line) for line in text.plain.splitlines()) + 6
        if width <= self._console.width:
            panel = Panel(text, title="piecework", width=width, padding=(1, 2))
            self._console.print(panel)
        else:
            self._console.print(text, soft_wrap=True)
        self._status = self._console.status("")
        self._status.start()

    def wait(self, left_s: float) -> None:
        if self._status is not None:
            minutes, seconds = divmod(round(left_s), 60)
            self._status.update(f"waits for you, {minutes}:{seconds:02} left; Ctrl-C leaves")

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
