"""`piecework models split`."""

import json
import sys
from pathlib import Path

from node.app.fetching import size_text
from node.app.shard import load_model
from node.cli.options import home_path
from node.cli.program import fail, tell
from node.config import Home
from node.models.fetcher import write_failed
from node.models.split import split_model
from protocol.errors import PieceworkError
from protocol.route import Span

__all__ = ["split_weights"]


def split_weights(
    *, name: str, span: str, ends: bool, target: Path, home: Path | None, as_json: bool
) -> None:
    """Write the shard; its directory goes to stdout."""
    try:
        layers = Span.from_text(span)
        tell(f"reading {name}")
        model = load_model(name, Home(home_path(home)))
        report = split_model(model.manifest, model.directory, layers, ends, target)
    except PieceworkError as error:
        fail(error)
    except OSError as error:
        fail(write_failed(target.parent, 0, error))
    if as_json:
        content = {
            "schema": 1,
            "name": model.manifest.name,
            "directory": str(report.directory),
            "span": str(layers),
            "ends": ends,
            "manifest_hash": model.manifest.manifest_hash.hex(),
            "files": report.files,
            "tensors": report.tensors,
            "size_bytes": report.size_bytes,
        }
        sys.stdout.write(json.dumps(content) + "\n")
        return
    with_ends = " with the ends" if ends else ""
    tell(f"layers {layers}{with_ends} of {model.manifest.name}: {report.tensors} tensors, "
         f"{size_text(report.size_bytes)}")  # fmt: skip
    tell(f"copy the directory, then: piecework join --model DIRECTORY --span {layers}")
    sys.stdout.write(f"{report.directory}\n")
