# Everything a developer runs. Each target sets up what it needs; from the second run on that costs nothing.
# Needs Python >= 3.11, make and a package index. buf is used where node is, go where it is, docker nowhere.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/bash

PYTHON ?= python3
ARGS ?=
COMMA := ,

VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
GENERATE := .tools/generate
UV := .tools/uv
BUF_VERSION := 1.75.0
# What `longshore new` writes, linted as the project that it is.
TEMPLATE := client/longshore_client/template
BUF := .tools/buf-$(BUF_VERSION)/node_modules/.bin/buf

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- what people run -------------------------------------------------------------------------------------------

.PHONY: demo
demo: install ## real orders and documents through servers that are killed halfway, nothing lost
	$(BIN)/python examples/orders/demo.py
	$(BIN)/python examples/documents/demo.py

.PHONY: test
test: install ## the tests, on the newest supported versions (ARGS='-k watch' to choose)
	$(BIN)/pytest $(ARGS)

# Without the clients in other languages and what makes environments of its own: these have their own versions. And without
# the servers that are killed over and over to see what is on the disk, demos included: what they prove is up to SQLite,
# which is Python's.
OWN_VERSIONS := tests/polyglot $(patsubst %,tests/tooling/test_%.py,consumer dockerfile kubernetes new readme wheel) \
	$(patsubst %,tests/faults/test_%.py,crashes control_crashes retry_crashes signal_crashes power_loss torture instance_torture) \
	tests/examples/test_demo.py
.PHONY: test-lowest
test-lowest: $(LOWEST)/.installed ## the tests, on the lowest versions that pyproject.toml claims
	$(LOWEST)/bin/pytest -p no:cacheprovider $(addprefix --ignore=,$(OWN_VERSIONS)) $(ARGS)

.PHONY: torture
torture: install ## the long durability run: load, SIGKILL at random moments, every history checked
	$(BIN)/python -m pytest tests/faults -m torture -s $(ARGS)

.PHONY: fuzz
fuzz: install ## a hundred thousand calls of every kind, good and spoilt, to every RPC of the server
	$(BIN)/python -m pytest tests/fuzz -m fuzz -s $(ARGS)

.PHONY: bench
bench: install ## the benchmarks, as ratios to a plain gRPC echo measured in the same run
	$(BIN)/python benchmarks/run.py $(ARGS)

.PHONY: bench-million
bench-million: install ## the benchmark of a server that holds 1,000,000 operations already
	$(BIN)/python benchmarks/run.py million --rounds 7 --seconds 1 $(ARGS)

.PHONY: generate
generate: $(GENERATE)/.installed install ## write what is generated: stubs, tables in the docs, the blocking client
	$(GENERATE)/bin/python protos/generate.py
	$(BIN)/python docs/generate.py
	$(BIN)/python client/write_blocking.py

# --- checks ----------------------------------------------------------------------------------------------------

.PHONY: check
check: check-lint check-types check-layers check-refusals check-generated check-protos check-docker ## everything static (-k to see all)

.PHONY: check-lint
check-lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(TEMPLATE) && $(CURDIR)/$(BIN)/ruff check --isolated --no-cache --line-length 120 --select ANN,B,E,F,RUF,SIM,UP,W
	cd $(TEMPLATE) && $(CURDIR)/$(BIN)/ruff format --check --isolated --no-cache --line-length 120

# Each example is a program of its own: two of them may both have a service.py.
PROGRAMS := $(filter-out examples/clients/,$(wildcard examples/*/)) $(sort $(dir $(wildcard examples/clients/*/*.py)))
.PHONY: check-types
check-types: install
	$(BIN)/mypy .ci server client protos docs tests $(if $(wildcard benchmarks/*.py),benchmarks)
	@set -e; for example in $(PROGRAMS); do \
		echo "mypy $$example"; MYPYPATH=$$example:examples $(BIN)/mypy $$example; done

.PHONY: check-layers
check-layers: install
	$(BIN)/lint-imports

# No RPC, contract option or verb of the command line without a test that refuses it.
.PHONY: check-refusals
check-refusals: install
	$(BIN)/pytest --quiet tests/tooling/test_refusals.py

.PHONY: check-generated
check-generated: $(GENERATE)/.installed install
	$(GENERATE)/bin/python protos/generate.py --check
	$(BIN)/python docs/generate.py --check
	$(BIN)/python client/write_blocking.py --check

.PHONY: check-protos
check-protos: $(GENERATE)/.installed
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory buf; \
	elif [ -n "$$CI" ]; then echo "buf: npm is missing, and in CI nothing is skipped" >&2; exit 1; \
	else echo "SKIPPED buf lint, format and breaking: they need npm"; fi

.PHONY: buf
buf: $(BUF) $(GENERATE)/.installed
	$(GENERATE)/bin/python protos/buf.py $(BUF)

.PHONY: check-docker
check-docker: install
	$(BIN)/hadolint Dockerfile $(TEMPLATE)/Dockerfile

.PHONY: format
format: install ## rewrite the Python and proto sources in the project's format
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .
	@if [ -x $(BUF) ]; then for tree in $(wildcard protos examples/*/protos tests/contracts/protos); do \
		$(BUF) format --write $$tree; done; fi

# --- environments ----------------------------------------------------------------------------------------------

.PHONY: install
install: $(VENV)/.installed ## make .venv with everything in it, .venv/bin/longshore included

# $(call environment,FOLDER,WHAT PIP INSTALLS)
define environment
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Longshore needs Python 3.11 or newer; \
	this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.11")'
	@echo "Setting up $(1); the next run finds it ready."
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/pip install --quiet --upgrade 'pip>=25.1'
	@$(1)/bin/pip install --quiet --editable $(2)
	@touch $(1)/.installed
endef

# A stamp instead of a phony recipe: the second run only compares two dates.
$(VENV)/.installed: pyproject.toml constraints/highest.txt
	$(call environment,$(VENV),'.[server$(COMMA)auth$(COMMA)cli$(COMMA)stores$(COMMA)otel]' --group dev --constraint constraints/highest.txt)

$(LOWEST)/.installed: pyproject.toml constraints/lowest.txt
	$(call environment,$(LOWEST),'.[server$(COMMA)auth$(COMMA)cli$(COMMA)stores$(COMMA)otel]' --group test --constraint constraints/lowest.txt)

$(GENERATE)/.installed: pyproject.toml
	$(call environment,$(GENERATE),. --group generate)

$(BUF):
	@mkdir -p .tools/buf-$(BUF_VERSION)
	npm install --prefix .tools/buf-$(BUF_VERSION) --no-save --no-audit --no-fund --ignore-scripts --loglevel=error @bufbuild/buf@$(BUF_VERSION)
	@touch $@

.PHONY: lock
lock: ## resolve anew the versions that make install and make test-lowest use
	$(PYTHON) -m venv $(UV)
	$(UV)/bin/pip install --quiet uv
	$(UV)/bin/uv pip compile $(LOCK) --universal --group dev --output-file constraints/highest.txt
	$(UV)/bin/uv pip compile $(LOCK) --resolution lowest-direct --no-deps --output-file .tools/minimums.txt
	$(UV)/bin/uv pip compile $(LOCK) --constraint .tools/minimums.txt --group test --output-file constraints/lowest.txt

LOCK := pyproject.toml --quiet --upgrade --python-version 3.11 --no-header --no-annotate --extra server --extra auth --extra cli --extra stores --extra otel

.PHONY: clean
clean: ## remove the environments and everything that tools left behind
	rm -rf $(VENV) $(LOWEST) .tools build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
