# Piecework: every command a person types. `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
# Many tests wait for the timers of a protocol: one more at once than there are cores.
WORKERS ?= 3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
STAMP := $(VENV)/.piecework-installed
INSTALL := $(PIP) install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt
# Most of what is ever imported, on every core; pip would compile the rest too, on one core.
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 \
  -x '/(tests|transformers/models|torch/_inductor|torch/onnx|networkx|setuptools|mypyc?|pip)/' $(VENV)/lib
# Tests start hundreds of processes that import the same files: whoever compiles one keeps it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint fmt types layers docs bench bench-wan bench-kills bench-ledger models interop vectors clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install everything (again when the pins change)

demo: $(STAMP) ## start a market, three providers and a gateway; ask one question; show the money
	@$(BIN)/piecework demo $(DEMO)

test: $(STAMP) ## all tests: style, types, import contracts, docs, packages, flows
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

check: test ## what CI runs

lint: $(STAMP) ## ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

fmt: $(STAMP) ## format, and fix what can be fixed safely
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

types: $(STAMP) ## mypy, strict
	@$(BIN)/mypy

layers: $(STAMP) ## who may import whom
	@$(BIN)/python -m pytest --quiet tests/test_architecture.py

docs: $(STAMP) ## links, words and commands in README and docs/
	@$(BIN)/python -m pytest --quiet tests/test_docs.py

bench: $(STAMP) ## measure, and write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.run $(BENCH)

bench-wan: $(STAMP) ## the figures of sessions over wide links alone (root or user namespaces)
	@$(BIN)/python -m benchmarks.run session_decode session_drafting session_prefill session_many

bench-kills: $(STAMP) ## a thousand kills at random tokens, and what became of the answers
	@$(BIN)/python -m benchmarks.session_kills $(KILLS)

# each in its turn, so that none takes another's cores; the kills last, for they take longest
bench-ledger: $(STAMP) ## receipts, holds, caps, payouts, audits, liars, and hundreds of kills
	@$(BIN)/python -m benchmarks.run ledger_ingest ledger_hold
	@for name in ledger_cap ledger_payouts ledger_audit ledger_byzantine; do \
	  echo "$$name …" >&2; $(BIN)/python -m benchmarks.$$name || exit 1; done
	@$(BIN)/python -m benchmarks.ledger_kills $(LEDGER_KILLS)

models: $(STAMP) ## run the family tests, and write docs/models.md from them
	@$(BIN)/python -m tests.models_page

interop: $(STAMP) ## what the tests with go-libp2p and js-libp2p need (without it they are skipped)
	@$(PIP) install --disable-pip-version-check --quiet --no-deps --target $(VENV)/interop hivemind==1.1.12
	@cd tests/interop/js && npm install --no-package-lock --no-audit --no-fund --silent

vectors: $(STAMP) ## rewrite the golden vectors: only when the wire changes on purpose
	@$(BIN)/python -m tests.vectors.make

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# MLX has no build for every machine; without it a node serves with torch. What builds ours is there by then.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Piecework needs Python 3.11 or newer, and '$(PYTHON)' is not: try 'make setup PYTHON=python3.11'." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time takes some minutes." >&2
	@$(INSTALL) --editable '.[dev]'
	@$(INSTALL) --no-build-isolation --editable '.[mlx]' 2>$(VENV)/mlx.log || \
	  echo "MLX does not install on this machine ($(VENV)/mlx.log says why): going on with torch alone." >&2
	@$(COMPILE) || true  # it fails where a package brings templates that are no Python
	@touch $@
