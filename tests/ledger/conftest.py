"""An empty ledger in memory, in one open transaction; and one in a file for threads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from ledger.database import Session
from tests.ledger.world import database


@pytest.fixture
def engine(engine_name: str) -> Iterator[Engine]:
    with database(engine_name) as engine:
        yield engine


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session, session.begin():
        yield session


@pytest.fixture
def file_engine(engine_name: str, tmp_path: Path) -> Iterator[Engine]:
    with database(engine_name, tmp_path / "ledger.db") as engine:
        yield engine
