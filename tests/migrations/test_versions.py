"""Versions and models say the same, on an empty database, up and down."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect

from ledger.database import Session, create_all, metadata, open_database
from ledger.invariants import check
from ledger.triggers import APPEND_ONLY, trigger_names
from migrations.run import downgrade, drift, make_config, upgrade

VERSIONS = list(ScriptDirectory.from_config(make_config()).walk_revisions())


@pytest.fixture
def empty(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path / 'migrated.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def migrated(empty):
    upgrade(empty)
    return empty


@pytest.fixture
def created(tmp_path):
    """What the models say, without any version."""
    engine = open_database(f"sqlite:///{tmp_path / 'created.db'}")
    create_all(engine)
    yield engine
    engine.dispose()


def schema(engine: Engine) -> dict[str, object]:
    """Everything SQLite knows: a table as its set of parts, the rest as their text."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        )
        return {
            f"{kind} {name}": _lines(sql) if kind == "table" else sql
            for kind, name, sql in rows
            if name != "alembic_version"
        }


def _lines(sql: str) -> tuple[str, ...]:
    """A table's parts, however they came to be there: altering one writes it in another order."""
    head, _, body = sql.partition("(")
    parts, depth = [""], 0
    for character in body.rstrip()[:-1]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(sorted(" ".join(part.replace('"', "").split()) for part in (head, *parts)))


class TestUpgrade:
    def test_is_what_the_models_say(self, migrated, created):
        ours, theirs = schema(migrated), schema(created)
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert ours[name] == theirs[name], name

    def test_alembic_sees_no_drift(self, migrated):
        drift(migrated)

    def test_every_trigger_is_there(self, migrated):
        triggers = {name for name in schema(migrated) if name.startswith("trigger ")}
        expected = {
            f"trigger {trigger}"
            for table in (*APPEND_ONLY, "ledger_lane")
            for trigger in trigger_names(table)
        }
        assert triggers == expected

    def test_again_changes_nothing(self, migrated):
        before = schema(migrated)
        upgrade(migrated)
        assert schema(migrated) == before

    def test_two_at_once(self, empty):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(upgrade, [empty] * 4))
        drift(empty)

    def test_an_empty_ledger_is_whole(self, migrated):
        with Session(migrated) as session, session.begin():
            assert check(session) == []

    def test_works_from_another_folder(self, empty, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        upgrade(empty)
        assert set(metadata.tables) <= set(inspect(empty).get_table_names())


class TestDowngrade:
    def test_leaves_nothing(self, migrated):
        downgrade(migrated)
        assert inspect(migrated).get_table_names() == ["alembic_version"]

    @pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.revision)
    def test_each_version_down_and_up_again(self, migrated, version):
        before = schema(migrated)
        downgrade(migrated, version.down_revision or "base")
        upgrade(migrated)
        assert schema(migrated) == before


class TestVersions:
    def test_there_is_one_head(self):
        assert len(ScriptDirectory.from_config(make_config()).get_heads()) == 1

    def test_files_are_named_by_date(self):
        for version in VERSIONS:
            name = version.path.rsplit("/", 1)[-1]
            assert name.startswith("v20")
            assert name[1:11].replace("_", "").isdecimal()


class TestPostgreSQL:
    def test_the_same_versions_as_text(self, capsys):
        config = make_config()
        config.set_main_option("sqlalchemy.url", "postgresql+psycopg://")
        command.upgrade(config, "head", sql=True)
        sql = capsys.readouterr().out
        for table in metadata.tables:
            assert f"CREATE TABLE {table} " in sql
        for table in (*APPEND_ONLY, "ledger_lane"):
            for trigger in trigger_names(table):
                assert f"CREATE TRIGGER {trigger} " in sql
        assert "id BIGSERIAL" in sql
        assert " INTEGER" not in sql
        assert "%" not in sql
