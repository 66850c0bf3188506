"""`piecework models ls`."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from node.app.fetching import size_text
from node.cli.options import home_path
from node.config import Home
from node.engine import store
from node.models.listing import ModelSummary, summarize

__all__ = ["list_models"]


def list_models(*, home: Path | None, as_json: bool) -> None:
    """The packaged model and every one in the models directory; nothing is hashed."""
    models_directory = Home(home_path(home)).models_path
    names = [store.TINY_MODEL, *store.list_models(models_directory)]
    summaries = [
        summarize(name, store.resolve_model(name, models_directory=models_directory))
        for name in names
    ]
    if as_json:
        models = [_as_object(summary) for summary in summaries]
        sys.stdout.write(json.dumps({"schema": 1, "models": models}) + "\n")
    else:
        _print(summaries)


def here_text(summary: ModelSummary) -> str:
    """`all`, or what there is: `0:4 8:12 + ends`."""
    if summary.fault:
        return "cannot be read"
    if summary.is_whole:
        return "all"
    parts = [" ".join(map(str, summary.spans))] if summary.spans else []
    parts += ["ends"] if summary.has_ends else []
    return " + ".join(parts) or "nothing yet"


def _print(summaries: list[ModelSummary]) -> None:
    table = Table("model", "family", "layers", "here", "size", "dtype", "licence", "sold", box=None)
    for column in (2, 4):
        table.columns[column].justify = "right"
    for summary in summaries:
        sold = "" if summary.fault else "yes" if summary.resale_allowed else "no"
        layers = str(summary.layers) if summary.layers else ""
        table.add_row(
            summary.name, summary.family, layers, here_text(summary),
            size_text(summary.size_bytes), summary.dtype, summary.licence, sold,
        )  # fmt: skip
    console = Console()
    console.print(table)
    for summary in summaries:
        if summary.fault:
            console.print(f"{summary.name}: {summary.fault}", highlight=False, style="red")


def _as_object(summary: ModelSummary) -> dict[str, object]:
    return {
        "name": summary.name,
        "directory": str(summary.directory),
        "family": summary.family,
        "layers": summary.layers,
        "whole": summary.is_whole,
        "spans": [str(span) for span in summary.spans],
        "ends": summary.has_ends,
        "size_bytes": summary.size_bytes,
        "dtype": summary.dtype,
        "licence": summary.licence,
        "resale_allowed": summary.resale_allowed,
        "manifest_hash": summary.manifest_hash.hex() if summary.manifest_hash else None,
        "fault": summary.fault or None,
    }
