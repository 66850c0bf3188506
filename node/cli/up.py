"""`piecework up`."""

import asyncio
import contextlib
import json
import logging
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler

from node.app.up import View, run_up
from node.cli.machines import cluster_panel
from node.cli.options import EngineTexts, choose, engine_options, home_path
from node.cli.program import fail, run_service, tell
from node.config import UpConfig, parse_bytes
from node.errors import ConfigInvalid
from node.hardware import available_memory_bytes
from protocol.errors import LocalProtocolError, PieceworkError
from protocol.tensor import WireDtype
from transport.lan.static import parse_host_port

__all__ = ["UpOptions", "go_up"]

CLUSTER_NAME_MAX = 64
"""A name is announced by its hash; it is bounded so that a table can show it."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The command's options as they were typed."""

    model: str
    name: str
    key: str
    machine: str
    memory: str
    peers: tuple[str, ...]
    listen: tuple[str, int]
    api: tuple[str, int]
    offline: bool
    spread: bool
    discovers: bool
    home: Path | None
    engine: EngineTexts
    wire: str
    kv_tokens: int
    draft: str = ""


def go_up(options: UpOptions, *, as_json: bool) -> None:
    """Check the options, then be a machine of the cluster until told to stop."""
    try:
        config = _config(options)
    except PieceworkError as error:
        fail(error)

    async def serve(stop: asyncio.Event) -> None:
        with _shown(as_json=as_json) as (show, say):
            await run_up(config, stop, say, show=show)

    run_service(serve)


def _config(options: UpOptions) -> UpConfig:
    name = options.name.strip()
    if not name or len(name) > CLUSTER_NAME_MAX or not name.isprintable():
        raise ConfigInvalid("A cluster's name has between 1 and 64 printable characters.")
    for peer in options.peers:
        try:
            parse_host_port(peer)
        except LocalProtocolError as error:
            raise ConfigInvalid(f"--peer {error.message}") from error
    memory = options.memory
    return UpConfig(
        home=home_path(options.home),
        model=options.model,
        cluster_name=name,
        cluster_key=options.key,
        machine_name=(options.machine or platform.node() or "machine")[:40],
        memory_bytes=available_memory_bytes() if memory == "auto" else parse_bytes(memory),
        engine=engine_options(options.engine),
        wire_dtype=choose(WireDtype, options.wire, "--wire"),
        kv_tokens=options.kv_tokens,
        draft=options.draft,
        listen_host=options.listen[0],
        listen_port=options.listen[1],
        peers=options.peers,
        api_host=options.api[0],
        api_port=options.api[1],
        offline=options.offline,
        spread=options.spread,
        discovers=options.discovers,
    )


Shown = tuple[View, "Say"]


class Say:
    """Where sentences go: stderr, or above the table."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console

    def __call__(self, message: str) -> None:
        if self._console is None:
            tell(message)
        else:
            self._console.print(f"piecework: {message}", markup=False, highlight=False)


@contextlib.contextmanager
def _shown(*, as_json: bool) -> Iterator[Shown]:
    """JSON lines on stdout; or a live table on a terminal; or sentences alone."""
    console = Console(stderr=True)
    if as_json:
        yield _JsonLines(), Say()
    elif not console.is_terminal:
        yield (lambda _: None), Say()
    else:
        root = logging.getLogger()
        root.handlers = [RichHandler(console=console, show_path=False)]
        root.setLevel(logging.WARNING)  # the table says the rest
        with Live(console=console, auto_refresh=False, redirect_stderr=False) as live:
            yield (lambda view: live.update(cluster_panel(view), refresh=True)), Say(console)


class _JsonLines:
    """One object a line on stdout, whenever something other than a rate has changed."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, view: dict[str, object]) -> None:
        machines = view["machines"]
        assert isinstance(machines, list)
        steady = [{k: v for k, v in machine.items() if k != "rows_per_s"} for machine in machines]
        fingerprint = json.dumps(view | {"machines": steady}, sort_keys=True)
        if fingerprint != self._last:
            self._last = fingerprint
            sys.stdout.write(json.dumps({"schema": 1} | view) + "\n")
            sys.stdout.flush()
