"""`piecework models convert`."""

import json
import sys
import time
from pathlib import Path

from node.app.fetching import size_text
from node.cli.options import home_path
from node.cli.program import fail, tell
from node.config import Home
from node.engine.errors import BackendMissing, ModelUnsupported
from node.engine.store import MODEL_NAME
from node.errors import ConfigInvalid
from node.models.fetcher import write_failed
from node.models.gguf_import import import_gguf
from node.models.listing import disk_bytes
from protocol.errors import PieceworkError

__all__ = ["convert_weights"]


def convert_weights(*, file: Path, name: str, home: Path | None, as_json: bool) -> None:
    """Convert; the new directory goes to stdout, the rest to stderr."""
    started_s = time.monotonic()
    try:
        directory = _target(name, Home(home_path(home)).models_path)
        if not file.is_file():
            raise ModelUnsupported(f"There is no file '{file}'.")
        tell(f"converting {file.name} ({size_text(file.stat().st_size)}) to {name}")
        _convert(file, directory)
    except PieceworkError as error:
        fail(error)
    elapsed_s, size_bytes = time.monotonic() - started_s, disk_bytes(directory)
    if as_json:
        report = {
            "schema": 1, "name": name, "directory": str(directory),
            "size_bytes": size_bytes, "elapsed_s": round(elapsed_s, 4),
        }  # fmt: skip
        sys.stdout.write(json.dumps(report) + "\n")
        return
    tell(f"{name}: {size_text(size_bytes)} in {elapsed_s:.1f} s; use it as --model {name}")
    sys.stdout.write(f"{directory}\n")


def _target(name: str, models_path: Path) -> Path:
    if not MODEL_NAME.fullmatch(name):
        raise ConfigInvalid(f"'{name[:128]}' is no model name.", hint="Give one as org/name.")
    return models_path / name


def _convert(file: Path, directory: Path) -> None:
    try:
        import_gguf(file, directory)
    except ModuleNotFoundError as error:
        raise BackendMissing(
            "Reading GGUF needs the gguf package.",
            hint="Install it with: pip install 'piecework[torch]'",
        ) from error
    except OSError as error:
        raise write_failed(directory.parent, file.stat().st_size, error) from error
