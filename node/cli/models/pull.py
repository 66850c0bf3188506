"""`piecework models pull`."""

import json
import sys
import time
from pathlib import Path

from node.app.fetching import SourceChoice, fetch_model, size_text
from node.cli.models.bar import FetchBar
from node.cli.options import home_path
from node.cli.program import fail, run_task, tell
from node.config import Home
from node.errors import ConfigInvalid
from node.models.pull import PullOrder, PullReport
from protocol.errors import PieceworkError
from protocol.route import Span

__all__ = ["pull_weights"]

VOUCHED = {
    "manifest": "every tensor is the manifest's",
    "hub": "every file is what the hub says",
    "nobody": "nothing vouches for them: no manifest of this model is known here",
}


def pull_weights(
    *,
    name: str,
    span: str,
    ends: bool,
    sources: tuple[str, ...],
    revision: str,
    home: Path | None,
    as_json: bool,
) -> None:
    """Fetch what is missing; the directory goes to stdout, the rest to stderr."""
    try:
        order = PullOrder(name, parse_shard(span, ends), ends)
    except PieceworkError as error:
        fail(error)
    started_s = time.monotonic()

    async def work() -> tuple[PullReport, FetchBar]:
        with FetchBar(name) as bar:
            choice = SourceChoice(sources, revision or None)
            return await fetch_model(Home(home_path(home)), order, choice, bar), bar

    report, bar = run_task(work)
    elapsed_s = time.monotonic() - started_s
    if as_json:
        sys.stdout.write(json.dumps(_as_object(order, report, bar, elapsed_s)) + "\n")
        return
    what = f"{name} {order.span}{' with ends' if ends else ''}" if span else name
    fetched = f"{size_text(report.missing_bytes)} fetched in {elapsed_s:.1f} s"
    tell(f"{what}: {fetched if report.missing_bytes else 'all was here'}; "
         f"{VOUCHED[report.vouched_by]}")  # fmt: skip
    sys.stdout.write(f"{report.directory}\n")


def parse_shard(span: str, ends: bool) -> Span | None:
    """None for the whole model. Raises ConfigInvalid or RemoteProtocolError."""
    if not span:
        if ends:
            raise ConfigInvalid("--ends goes with a --span; without one all is fetched.")
        return None
    parsed = Span.from_text(span)
    if not (len(parsed) or ends):
        raise ConfigInvalid(f"The span {span} is empty.", hint="Add --ends for the ends alone.")
    return parsed


def _as_object(
    order: PullOrder, report: PullReport, bar: FetchBar, elapsed_s: float
) -> dict[str, object]:
    manifest = report.manifest
    return {
        "schema": 1,
        "name": order.name,
        "directory": str(report.directory),
        "span": None if order.span is None else str(order.span),
        "ends": order.has_ends,
        "manifest_hash": manifest.manifest_hash.hex() if manifest else None,
        "vouched_by": report.vouched_by,
        "fetched_bytes": report.missing_bytes,
        "there_bytes": report.there_bytes,
        "received_bytes": dict(bar.progress.received_bytes),
        "elapsed_s": round(elapsed_s, 4),
    }
