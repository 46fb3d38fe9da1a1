# Each target makes its own environment first: Python 3.11 or newer and make are all it takes.
#
#   PYTHON       the interpreter that makes the environment
#   VENV         where the environment is
#   CONSTRAINTS  the pinned versions; empty for the newest that pyproject.toml allows
#   WORKERS      how pytest spreads the test files over processors; empty for one process
#   DATA         the folder of data sets that `make bench` reads

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
WORKERS ?= -n auto --dist loadfile

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := $(BIN)/python -m

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make the environment

demo: $(STAMP)  ## run the demonstration
	$(BIN)/ideareg demo

test: lint  ## lint, type check, and all tests but the slow ones
	$(RUN) pytest $(WORKERS) -m "not slow"

test-all: lint  ## lint, type check, and all tests
	$(RUN) pytest $(WORKERS)

lint: $(STAMP)  ## ruff and mypy
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

bench: $(STAMP)  ## compare with peers on the data sets in DATA
	@test -d "$(DATA)" || { echo "make bench: name the folder of data sets: make bench DATA=dir" >&2; exit 2; }
	$(BIN)/ideareg bench uci --data "$(DATA)"

clean:  ## remove the environment, caches and builds
	rm -rf "$(VENV)" build dist .mypy_cache .pytest_cache .ruff_cache .jax_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp holds the folder it was made in: a tree that was moved or copied with its environment
# would go on using the old one, so there the environment is made anew.
ifneq ($(shell cat "$(STAMP)" 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
$(STAMP): FRESH := --clear
endif

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"ideareg needs Python 3.11 or newer, and $(PYTHON) is {v}: make PYTHON=python3.11 ...")'
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	@$(PYTHON) -m venv $(FRESH) "$(VENV)"
	@$(RUN) pip install -qq --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	@printf '%s\n' "$(CURDIR)" > "$@"
