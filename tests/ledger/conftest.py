"""An empty ledger in memory, in one open transaction; and one in a file for threads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from ledger.database import Session
from tests.ledger.world import database


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = database()
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session, session.begin():
        yield session


@pytest.fixture
def file_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = database(tmp_path / "ledger.db")
    yield engine
    engine.dispose()
