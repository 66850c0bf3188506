"""The command line starts light: nothing heavy is imported before a command needs it.

How long it takes is measured in benchmarks/cli_help.py.
"""

import json
import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "transformers", "mlx", "mlx_lm", "safetensors", "tokenizers", "numpy"),
    *("fastapi", "starlette", "uvicorn", "httpx", "openai", "jinja2"),
    *("sqlalchemy", "sqlmodel", "alembic", "aioquic", "rich.markdown", "rich.progress"),
}
START = """
import json, sys
from {module} import main
sys.argv = [{program!r}, *{arguments!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("\\n" + json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    ("program", "module", "arguments"),
    [
        ("piecework", "node.cli.main", ["--help"]),
        ("piecework", "node.cli.main", ["join", "--help"]),
        ("piecework", "node.cli.main", ["up", "--help"]),
        ("piecework-market", "marketplace.cli", ["--help"]),
        ("piecework-relay", "relay.cli", ["--help"]),
    ],
    ids=["piecework", "piecework join", "piecework up", "piecework-market", "piecework-relay"],
)
def test_help_imports_nothing_heavy(program, module, arguments):
    code = START.format(module=module, program=program, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert program in done.stdout
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & HEAVY
