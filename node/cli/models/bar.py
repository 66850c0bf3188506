"""A fetch on the terminal: one bar on stderr, or plain lines where stderr is no terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from node.app.fetching import TellingListener, size_text
from node.cli.program import tell
from node.models.progress import FetchEvent, FetchProgress, Planned, Received, SourceDropped, Told

__all__ = ["FetchBar"]


class FetchBar:
    """A listener; use it as a context, so that the bar ends when the fetch does."""

    def __init__(self, name: str) -> None:
        console = Console(stderr=True)
        self.progress = FetchProgress()
        self._plain = None if console.is_terminal else TellingListener(tell)
        self._name = name
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
            _RateColumn(), TimeRemainingColumn(), console=console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task(name, total=None, visible=False)

    def __enter__(self) -> Self:
        if self._plain is None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._plain is None:
            self._bar.stop()

    def __call__(self, event: FetchEvent) -> None:
        self.progress(event)
        if self._plain is not None:
            self._plain(event)
            return
        match event:
            case Planned(missing_bytes=missing) if missing:
                self._bar.update(self._task, total=missing, visible=True)
            case Received(count=count):
                self._bar.advance(self._task, count)
            case SourceDropped(source=source, reason=reason, is_for_good=for_good):
                what = "dropped" if for_good else "given up"
                self._bar.console.print(f"piecework: {source} is {what}: {reason}", markup=False)
            case Told(message=message):
                self._bar.console.print(f"piecework: {message}", markup=False, highlight=False)


class _RateColumn(ProgressColumn):
    """Bytes a second in the units of the size beside it."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{size_text(task.speed)}/s", justify="right")
