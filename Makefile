# What people and CI both run; on a fresh machine with Python 3.11 or later each target is the only command needed.
#
#   make demo    the closed loop on the miniature: runs/miniature/report.html
#   make test    all tests
#   make check   lint, format, types, floors
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

.PHONY: demo test check bench clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	$(BIN)/bottega run $(RECIPE)

test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(TESTS)

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

clean:
	rm -rf .venv build runs/miniature .mypy_cache .ruff_cache .pytest_cache
