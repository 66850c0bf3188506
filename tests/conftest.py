"""Which database a test runs on, and the end of the PostgreSQL server that some need."""

import pytest

from tests import postgres


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "both_engines: runs on SQLite and on PostgreSQL where it needs a database"
    )


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
