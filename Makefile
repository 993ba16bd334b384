# Everything a developer or a first-time user types. The work is in `commplan`; this file only makes the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help install install-test demo up check test test-long test-all soak bench clean

help: ## Show what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

install: $(VENV)/.installed ## Make the environment from pinned versions

install-test: $(VENV)/.installed-test

$(VENV)/bin/python:
	@echo "making the environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit("commplan needs Python 3.11 or newer") if sys.version_info < (3, 11) else 0'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing pinned packages (a minute or two the first time)"
	@PIP_CONSTRAINT=constraints.txt $(PIP) install --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing the tools for tests"
	@PIP_CONSTRAINT=constraints.txt $(PIP) install --editable '.[test]'
	@touch $@

demo: install ## Run a whole campaign on this machine, with simulated people
	@$(BIN)/python -m commplan demo

up: install ## Start everything for daily use, and keep it up until Ctrl-C
	@$(BIN)/python -m commplan up

check: install-test ## Style, types and the floors of the house
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

test: install-test ## The tests, a kill at every boundary and small storms among them: some ten minutes
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not long and not soak"

test-long: install-test ## The tests that need more time: stops at every boundary, storms, the demo in a browser
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m "long and not soak"

test-all: test test-long ## All tests

soak: install-test ## Long storms, long searches, and each invariant broken on purpose: some hours
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m soak

bench: install-test ## How fast it is, beside the plain ways of doing the same; BENCH="--postgresql" for more
	@$(BIN)/python -m tests.bench $(BENCH)

clean: ## Remove the environment and what tools left behind
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
