"""`piecework-market log`: the public log as files."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["log_app"]

log_app = typer.Typer(help="The public log.", no_args_is_help=True)


@log_app.command()
def export(
    directory: Annotated[Path, typer.Argument(help="Where; what is there already is kept.")],
    home: Annotated[
        Path | None, typer.Option(help="Directory of the key and the database.", file_okay=False)
    ] = None,
) -> None:
    """Write the log as static files (C2SP tlog-tiles), for a CDN or a USB stick."""
    from ledger.cosignatures import cosigned_note, newest_cosigned
    from ledger.export import export_log
    from ledger.log import Log
    from marketplace.config import read_config
    from marketplace.db import Database
    from marketplace.errors import MarketError

    config = read_config(home=home)
    database = Database(config.url)
    try:
        with database.reading() as session:
            log = Log(session)
            signed = newest_cosigned(session) or log.latest()
            if signed is None:
                raise MarketError("No checkpoint was signed yet.", hint="Start the marketplace.")
            note = cosigned_note(session, signed)
            written = export_log(directory, note, signed.size, signed.totals, log.tile)
    finally:
        database.close()
    typer.echo(f"{written} files written; {directory} has {signed.size} entries.", err=True)
