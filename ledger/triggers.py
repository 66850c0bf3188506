"""Triggers that hold the tables to their promises, whoever writes: what is immutable stays so.

Created with the tables by `create_all`, and by the migrations from the same text. SQLite's batch
migrations copy a table and lose its triggers: a migration that alters one of these must create them
again (a test compares).
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Table, event, text

from ledger import dispute_models, log_models, models
from ledger.database import metadata

__all__ = [
    "APPEND_ONLY",
    "append_only_statements",
    "create_statements",
    "drop_function_statements",
    "drop_statements",
    "trigger_names",
]

APPEND_ONLY: Sequence[str] = (
    models.TransferRow.__tablename__,
    models.ReceiptRow.__tablename__,
    models.HoldClosingRow.__tablename__,
    models.LeafRow.__tablename__,
    models.NodeRow.__tablename__,
    models.CheckpointRow.__tablename__,
    log_models.TileRow.__tablename__,
    log_models.CosignatureRow.__tablename__,
    log_models.BalanceSnapshotRow.__tablename__,
    dispute_models.EquivocationRow.__tablename__,
    dispute_models.MismatchRow.__tablename__,
)
"""Rows are inserted and never change."""

_LANE = models.LaneRow.__tablename__
_GROWING = ("last_sequence", "amount_received_nanos", "amount_settled_nanos")
_SHRINKS = " OR ".join(f"NEW.{column} < OLD.{column}" for column in _GROWING)
_REFUSE = "piecework_refuse_change"


def create_statements(table: str, dialect: str) -> list[str]:
    """The DDL that puts a table's triggers in place; empty for a table that has none."""
    on_sqlite = dialect == "sqlite"
    if table in APPEND_ONLY:
        return append_only_statements(table, dialect)
    if table == _LANE:
        return _growing_sqlite(table) if on_sqlite else _growing_postgresql(table)
    return []


def append_only_statements(table: str, dialect: str) -> list[str]:
    """The DDL that keeps a table's rows as they were inserted."""
    return _append_only_sqlite(table) if dialect == "sqlite" else _append_only_postgresql(table)


def drop_statements(table: str, dialect: str) -> list[str]:
    """The DDL that removes them."""
    on = "" if dialect == "sqlite" else f" ON {table}"
    return [f"DROP TRIGGER IF EXISTS {name}{on}" for name in trigger_names(table)]


def drop_function_statements(dialect: str) -> list[str]:
    """The DDL that removes what all triggers share, once every one of them is gone."""
    return [] if dialect == "sqlite" else [f"DROP FUNCTION IF EXISTS {_REFUSE}()"]


def trigger_names(table: str) -> list[str]:
    """What a table's triggers are called."""
    if table in APPEND_ONLY:
        return [f"tr_{table}_no_update", f"tr_{table}_no_delete"]
    return [f"tr_{table}_grows", f"tr_{table}_no_delete"] if table == _LANE else []


def _append_only_sqlite(table: str) -> list[str]:
    return [
        f"CREATE TRIGGER tr_{table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ]


def _growing_sqlite(table: str) -> list[str]:
    return [
        f"CREATE TRIGGER tr_{table}_grows BEFORE UPDATE ON {table} WHEN {_SHRINKS} "
        f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END",
        f"CREATE TRIGGER tr_{table}_no_delete BEFORE DELETE ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END",
    ]


def _append_only_postgresql(table: str) -> list[str]:
    return [
        _refuse_function(),
        *(
            f"CREATE TRIGGER tr_{table}_no_{name} BEFORE {verbs} ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {_REFUSE}()"
            for name, verbs in (("update", "UPDATE"), ("delete", "DELETE OR TRUNCATE"))
        ),
    ]


def _growing_postgresql(table: str) -> list[str]:
    return [
        _refuse_function(),
        f"CREATE TRIGGER tr_{table}_grows BEFORE UPDATE ON {table} "
        f"FOR EACH ROW WHEN ({_SHRINKS}) EXECUTE FUNCTION {_REFUSE}()",
        f"CREATE TRIGGER tr_{table}_no_delete BEFORE DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {_REFUSE}()",
    ]


def _refuse_function() -> str:
    return (
        f"CREATE OR REPLACE FUNCTION {_REFUSE}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', "
        "MESSAGE = TG_TABLE_NAME || ' cannot be changed this way'; END $$"
    )


def _create(table: Table, connection: Connection, **_: object) -> None:
    for statement in create_statements(table.name, connection.dialect.name):
        connection.execute(text(statement))


for _name in (*APPEND_ONLY, _LANE):
    event.listen(metadata.tables[_name], "after_create", _create)
