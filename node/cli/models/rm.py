"""`piecework models rm`."""

import json
import sys
from pathlib import Path

import typer

from node.app.fetching import size_text
from node.cli.options import home_path
from node.cli.program import fail, tell
from node.config import Home
from node.errors import ConfigInvalid
from node.models.listing import disk_bytes
from node.models.removal import find_removable, remove_model
from protocol.errors import PieceworkError

__all__ = ["remove_weights"]


def remove_weights(*, name: str, is_sure: bool, home: Path | None, as_json: bool) -> None:
    """Ask, unless told not to; remove one model directory."""
    try:
        directory = find_removable(name, Home(home_path(home)).models_path)
        size_bytes = disk_bytes(directory)
        if not (is_sure or _ask(name, size_bytes)):
            tell("nothing was removed")
            return
        remove_model(directory)
    except PieceworkError as error:
        fail(error)
    if as_json:
        report = {"schema": 1, "name": name, "freed_bytes": size_bytes}
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        tell(f"{name} is removed: {size_text(size_bytes)} are free again")


def _ask(name: str, size_bytes: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigInvalid(f"To remove {name} without being asked, say --yes.")
    return typer.confirm(f"Remove {name} ({size_text(size_bytes)})?", err=True)
