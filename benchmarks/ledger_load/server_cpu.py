"""How much CPU a PostgreSQL server has used, all its processes together; from Linux's /proc."""

import contextlib
import os
from pathlib import Path

from sqlalchemy import text

from ledger.database import open_database

__all__ = ["server_cpu_s"]

_PROC = Path("/proc")


def server_cpu_s(url: str) -> float:
    """Seconds since its start, those of connections that are closed included; 0 for SQLite."""
    engine = open_database(url)
    try:
        if engine.dialect.name != "postgresql":
            return 0.0
        with engine.connect() as connection:
            folder = connection.execute(text("SHOW data_directory")).scalar_one()
    finally:
        engine.dispose()
    main = int(Path(folder, "postmaster.pid").read_text().split()[0])
    ticks = 0
    for entry in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid = int(entry.parent.name)
            fields = entry.read_text().rpartition(")")[2].split()
            if pid == main:
                # with those of its children that have ended
                ticks += sum(int(field) for field in fields[11:15])
            elif int(fields[1]) == main:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
