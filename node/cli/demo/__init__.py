"""`piecework demo`: a whole paid pool on this machine, one answer, and the books."""

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from node.cli.demo.ask import ask
from node.cli.demo.pool import DemoOptions, DemoPool, start_pool
from node.cli.demo.processes import ChildFailed, Children
from node.cli.demo.report import collect_report
from node.cli.demo.view import print_report
from node.cli.options import choose
from node.cli.program import fail, run_task
from protocol.errors import PieceworkError
from protocol.tensor import WireDtype

__all__ = ["show_demo"]


def show_demo(
    *,
    nodes: int,
    model: str,
    prompt: str,
    engines: str,
    exact: bool,
    wire: str,
    keep: bool,
    as_json: bool,
) -> None:
    """Run the demo; exit 1 when any of its checks fails. `wire` empty: as `exact` has it."""
    try:
        wire_dtype = choose(WireDtype, wire, "--wire") if wire else None
    except PieceworkError as error:
        fail(error)
    options = DemoOptions(nodes, model, prompt, engines, exact, keep, wire_dtype)
    report = run_task(lambda: _run(options, keep=keep, as_json=as_json))
    if not report["ok"]:
        sys.exit(1)


async def _run(options: DemoOptions, *, keep: bool, as_json: bool) -> dict[str, Any]:
    """Start, ask, collect, print, and stop everything in any case."""
    talk = Console(stderr=True, soft_wrap=True)
    data = Console(soft_wrap=True)
    _end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="piecework-demo-") as name:
        children = Children(Path(name), lambda line: talk.print(line, style="dim", markup=False))
        try:
            pool = await _start(options, Path(name), children, talk)
            report = await _answer(options, pool, children, data, as_json=as_json)
            if keep:
                report["api_key"] = pool.api_key
            _show(report, data, as_json=as_json)
            if keep:
                await _keep(pool, children, talk)
        finally:
            talk.print("stopping", style="dim")
            codes = await children.stop()
    failed = {child: code for child, code in codes.items() if code}
    if failed:
        raise ChildFailed(f"These did not stop cleanly (exit codes): {failed}.")
    return report


async def _start(
    options: DemoOptions, directory: Path, children: Children, talk: Console
) -> DemoPool:
    with talk.status("starting") as status:
        return await start_pool(options, directory, children, status.update)


async def _answer(
    options: DemoOptions, pool: DemoPool, children: Children, data: Console, *, as_json: bool
) -> dict[str, Any]:
    def show(text: str) -> None:
        if not as_json:
            data.print(text, end="", markup=False, highlight=False)

    if not as_json:
        data.print(f"\n[bold]buyer[/bold]  {options.prompt}\n[bold]{pool.model}[/bold]")
    asked = await ask(pool, options.prompt, show)
    show("\n")
    return {"prompt": options.prompt} | await collect_report(pool, asked, children)


def _show(report: dict[str, Any], data: Console, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
    else:
        print_report(data, report)


async def _keep(pool: DemoPool, children: Children, talk: Console) -> None:
    """Leave it running until Ctrl-C, or until one of the processes ends."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    talk.print(
        f"\nrunning; Ctrl-C stops it\n  base URL    {pool.base_url}\n"
        f"  API key     {pool.api_key}\n  market      {pool.market_url}",
        highlight=False,
    )
    waits = {asyncio.create_task(stop.wait()), asyncio.create_task(children.wait_any_end())}
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        ended = done.pop().result()
        if isinstance(ended, str):
            raise ChildFailed(f"{ended} ended by itself.")


def _end_on_sigterm() -> None:
    """As Ctrl-C does: cancel, so that every process is stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
