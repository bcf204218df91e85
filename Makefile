# `make demo` and `make test` set up all they need: Python 3.11 or newer with venv, nothing else.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 4
FUZZ_SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help demo test check coverage oracles fuzz chaos soak bench bench-full format clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,otlp,redis,amqp,nats,mqtt]'
	@touch $@ $(VENV)/.base

demo: $(VENV)/.base ## A signed payment webhook, from the socket to the result (DEMO_ONCE=1 ends after it)
	@$(BIN)/python -m netscript_triggers.demo

test: check ## Every check and test; uses the servers it finds and says which it does not
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

coverage: $(VENV)/.dev ## The tests again, and which lines they did not reach
	@rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -n $(JOBS) --dist worksteal
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

check: $(VENV)/.dev ## Lint, types (two checkers), import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache

oracles: $(VENV)/.dev ## The verifiers beside every sender's own library, those that take long to install too
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[oracles]'
	NETSCRIPT_TEST_ORACLES=all $(BIN)/python -m pytest -n $(JOBS) tests/unit/triggers/verifiers/test_official_libraries.py

fuzz: $(VENV)/.dev ## Ten minutes of Hypothesis, and of a coverage-guided fuzzer on each target (FUZZ_SECONDS=600)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	NETSCRIPT_TEST_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -m chaos -s -p no:xdist tests/fuzz tests/chaos/test_openapi.py
	for target in verifiers bodies edge; do \
		$(BIN)/python -m tests.fuzz $$target -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -len_control=0 \
			-rss_limit_mb=0 -timeout=20 -artifact_prefix=.fuzz- || exit 1; done

chaos: $(VENV)/.dev ## What needs minutes: processes killed under load
	$(BIN)/python -m pytest -m chaos -s -p no:xdist

soak: $(VENV)/.dev ## Ten minutes on each database at half of what the machine can do, under kills
	NETSCRIPT_TEST_SOAK_MINUTES=10 $(BIN)/python -m pytest -m chaos -s -p no:xdist tests/chaos/test_soak.py

bench: $(VENV)/.dev ## Numbers, beside those of other queues from PyPI, in 3 minutes (ONLY=drain,accept)
	$(BIN)/python -m benchmarks --short $(if $(ONLY),--only $(ONLY))

bench-full: $(VENV)/.dev ## The same with more of everything: half an hour on a quiet machine
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the other targets made
	rm -rf $(VENV) .bench .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist
