"""`piecework models verify`."""

import json
import sys
from pathlib import Path

from rich.console import Console

from node.app.fetching import size_text
from node.cli.options import home_path
from node.cli.program import EXIT_FAILED, fail, tell
from node.config import Home
from node.engine.store import resolve_model
from node.models.verification import VerificationReport, verify_model
from protocol.errors import PieceworkError

__all__ = ["verify_weights"]


def verify_weights(*, name: str, home: Path | None, as_json: bool) -> None:
    """Re-hash and report; exit 1 when anything is wrong."""
    try:
        directory = resolve_model(name, models_directory=Home(home_path(home)).models_path)
        tell(f"reading {directory}")
        report = verify_model(_own_name(name, directory), directory)
    except PieceworkError as error:
        fail(error)
    if as_json:
        sys.stdout.write(json.dumps(_as_object(report)) + "\n")
    else:
        _print(name, report)
    if report.problems:
        sys.exit(EXIT_FAILED)


def _own_name(name: str, directory: Path) -> str:
    return directory.resolve().name if Path(name).exists() else name


def _print(name: str, report: VerificationReport) -> None:
    console = Console()
    layers = " ".join(map(str, report.spans)) or "none"
    ends = " and the ends" if report.has_ends else ""
    console.print(f"manifest  {report.manifest.manifest_hash.hex()}", highlight=False)
    if not report.is_vouched:
        console.print("          made now: compare it with another machine's", highlight=False)
    console.print(
        f"read      {report.tensors} tensors, {size_text(report.size_bytes)}", highlight=False
    )
    console.print(f"layers    {layers} of {report.manifest.layers}{ends}", highlight=False)
    if report.missing:
        console.print(f"not here  {report.missing} tensors", highlight=False)
    for problem in report.problems:
        console.print(f"[red]✗[/] {problem}", highlight=False)
    if report.problems:
        console.print(f"Fetch again what is wrong: piecework models pull {name}", highlight=False)
    else:
        console.print("[green]✓ all that is here is right[/]")


def _as_object(report: VerificationReport) -> dict[str, object]:
    return {
        "schema": 1,
        "ok": not report.problems,
        "name": report.manifest.name,
        "manifest_hash": report.manifest.manifest_hash.hex(),
        "vouched": report.is_vouched,
        "tensors": report.tensors,
        "size_bytes": report.size_bytes,
        "missing_tensors": report.missing,
        "spans": [str(span) for span in report.spans],
        "ends": report.has_ends,
        "problems": list(report.problems),
    }
