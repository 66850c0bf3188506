"""The database role a marketplace should run under on PostgreSQL: what it may do with each table.

Triggers refuse changes of append-only tables whoever asks; this role cannot even ask, nor drop the
triggers. The owner of the tables, who runs the migrations, is another role that only they use:

    for statement in statements("piecework_app"): connection.execute(text(statement))

On SQLite there are no roles; whoever can write the file can write anything, and `check` names it.
"""

from collections.abc import Sequence

from sqlalchemy.dialects import postgresql

from ledger.database import metadata
from ledger.errors import LedgerError
from ledger.triggers import APPEND_ONLY

__all__ = ["statements"]

_WORKING = "SELECT, INSERT, UPDATE, DELETE"
_APPENDING = "SELECT, INSERT"
_KEPT = ("ledger_account", "ledger_hold", "ledger_lane", "ledger_log_head")
"""Change, but never go."""
_ROLE_CHARACTERS_MAX = 63


def statements(role: str) -> Sequence[str]:
    """GRANTs for `role`, which must exist; run by the tables' owner after every migration.

    A receipt's part tables are reached through the whole one, whose rights alone count then.
    """
    if not role or len(role) > _ROLE_CHARACTERS_MAX or "\0" in role:
        raise LedgerError(f"A role has 1 to {_ROLE_CHARACTERS_MAX} characters.")
    quoted = '"' + role.replace('"', '""') + '"'
    quote = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
    granted = [
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {quoted}",
        f"GRANT USAGE ON SCHEMA public TO {quoted}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {quoted}",
        f"GRANT SELECT ON alembic_version TO {quoted}",
    ]
    for table in sorted(metadata.tables):
        if table in APPEND_ONLY:
            rights = _APPENDING
        elif table in _KEPT:
            rights = f"{_APPENDING}, UPDATE"
        else:
            rights = _WORKING
        granted.append(f"GRANT {rights} ON {quote(table)} TO {quoted}")
    return granted
