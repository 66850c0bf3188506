"""Which database a test runs on, and the end of the PostgreSQL server that some need."""

from pathlib import Path

import pytest

from tests import postgres

ROOT = Path(__file__).parents[1]

LONGEST_FIRST = (
    "tests/test_style.py",  # mypy
    "tests/netlab/test_pool_nats.py",
    "tests/flows/test_pool.py",
    "tests/flows/test_up.py",
    "tests/netlab/test_up_lan.py",
    "tests/flows/test_instalments.py",
    "tests/flows/test_identity.py",
    "tests/flows/test_kills.py",
    "tests/flows/test_ledger_kills.py",
    "tests/netlab/test_doctor.py",
    "tests/netlab/test_moves.py",
    "tests/netlab/test_pairs.py",
    "tests/node/engine/test_torch_families.py",
    "tests/node/engine/test_drawn.py",
    "tests/node/engine/test_worker.py",
    "tests/ledger/test_book_machine.py",
    "tests/marketplace/operations/test_operations.py",
    "tests/transport/test_fuzz_floods.py",
    "tests/transport/test_fuzz_socket.py",
    "tests/flows/test_journeys.py",
)
"""Files of half a minute and more. `make test` gives a worker one file after the other: begun last,
one of these would be waited for alone."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "both_engines: runs on SQLite and on PostgreSQL where it needs a database"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {ROOT / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))  # stable within a file


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_engines"):
        postgres.on_both(metafunc)


@pytest.fixture
def engine_name(request: pytest.FixtureRequest) -> str:
    """`sqlite`, or `postgresql` for one of the two runs of a test marked `both_engines`.

    With PIECEWORK_TEST_POSTGRESQL_URL every test runs on that server.
    """
    default = "postgresql" if postgres.POSTGRESQL_URL else "sqlite"
    return str(getattr(request, "param", default))


def pytest_sessionfinish() -> None:
    postgres.stop()
