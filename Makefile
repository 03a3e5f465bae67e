# Needs: Python >= 3.11, make, git. For the tests on real Kafka also Java 17 and Maven.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# uv draws bars on a terminal and lists every package elsewhere
UV_PROGRESS := $(shell test -t 2 || echo -q)
STAMP  := $(VENV)/.installed
ARGS   ?=
# Tests wait for brokers more than they compute; each of these takes up to 2 GB.
JOBS   ?= 4
LOCK   := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q

.PHONY: help setup demo test test-fast test-all check bench crash lock clean
.DEFAULT_GOAL := help

help:       ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: $(STAMP)  ## create .venv with everything pinned and hash-checked

$(STAMP): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "anchorstream needs Python >= 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "1 of 3: $(VENV), and what installs the rest"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@echo "2 of 3: the packages, of which torch is the largest: about 2 GB once, then some minutes of compiling"
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install $(UV_PROGRESS) --compile-bytecode --no-deps --require-hashes -r requirements/dev.txt
	@echo "3 of 3: anchorstream itself"
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: setup ## real households end to end on this machine; ARGS="--exit --json out.json", "--broker local", ...
	$(BIN)/anchorstream demo $(ARGS)

test: setup ## all tests but the longest forms of some; real Kafka where Java 17 and Maven are found
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-fast: setup ## without real Kafka, crash and slow tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not kafka and not crash and not slow and not gpu and not long" $(ARGS)

test-all: setup ## with the longest forms, and ten rounds of random faults
	CRASH_ROUNDS=10 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "" $(ARGS)

check: setup ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## every benchmark, briefly
	$(BIN)/anchorstream bench all $(ARGS)

crash: setup ## random faults on real Kafka, compared with a reference; SEED=1 ROUNDS=10 GO_ON=1
	CRASH_SEED=$(or $(SEED),1) CRASH_ROUNDS=$(or $(ROUNDS),10) CRASH_GO_ON=$(GO_ON) $(BIN)/python -m pytest -s -q --basetemp=$$(mktemp -d -t anchorstream-crash-XXXXXX)/t tests/crash/test_random_faults.py $(ARGS)

lock: setup ## recompile requirements/*.txt
	$(LOCK) requirements/bootstrap.in -o requirements/bootstrap.txt
	$(LOCK) pyproject.toml --extra cpu --extra weights --extra demo --extra learn --group dev -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra cpu --extra weights --extra demo -c requirements/dev.txt -o requirements/cpu.txt
	$(LOCK) pyproject.toml --extra gpu --extra weights -o requirements/gpu.txt

clean:      ## remove the environment and caches (never data directories)
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache
