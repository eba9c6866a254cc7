# What people and CI both run; on a fresh machine with Python 3.11 or later each target is the only command needed.
#
#   make demo    the closed loop on the miniature: runs/miniature/report.html
#   make test    all tests
#   make check   lint, format, types, floors
#   make test-lowest   tests with the oldest versions that pyproject.toml allows, in .venv-lowest
#   make bench   every benchmark in its short form, dated, in benchmarks/results/; make bench BENCH=--full takes a day
#
# Nothing is compiled to bytecode at installation: Python does that, once, for the quarter of the files that is used.
# TORCH_INDEX passes an option to pip for torch alone, such as the index of the small CPU build.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
TORCH_INDEX ?=
RECIPE ?= recipes/miniature.yaml

unexport PYTHONDONTWRITEBYTECODE

# A few of each package that meets torch and the model libraries: whether the miniature loads, paints and trains.
LOWEST := .venv-lowest
LOWEST_TESTS ?= tests/models/test_agreement.py tests/models/test_weights.py tests/teacher/test_protocol.py \
	tests/student/test_adapter.py tests/generation/test_samplers.py tests/cli/test_given.py

.PHONY: demo test test-lowest check bench clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	$(BIN)/bottega run $(RECIPE)

test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(TESTS)

test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 PYTHONPATH=src $(LOWEST)/bin/python -m pytest -p no:cacheprovider $(LOWEST_TESTS)

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports

bench: .venv/.installed-dev
	@failed=0; for script in benchmarks/*.py; do echo "== $$(basename $$script .py)"; \
	$(BIN)/python $$script --save $(BENCH) || failed=1; done; exit $$failed

# torch goes first and alone, so that nothing else decides which build of it is taken.
.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "bottega needs Python 3.11 or later; none was found (make PYTHON=/path/to/python)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $(TORCH_INDEX) torch==2.13.0
	$(PIP) --editable .
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --editable ".[dev]"
	@touch $@

# uv knows the lowest versions of what is named here and the newest of what those need; torch stays the pinned one.
$(LOWEST)/.installed: pyproject.toml
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX) torch==2.13.0
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--requirement pyproject.toml --extra dev
	@touch $@

clean:
	rm -rf .venv $(LOWEST) build runs/miniature .mypy_cache .ruff_cache .pytest_cache
