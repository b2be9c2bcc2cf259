.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GENERATE := .tools/generate

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(VENV)/.installed ## make .venv with everything in it

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[server,cli]' --group dev
	@touch $@

$(GENERATE)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(GENERATE)
	$(GENERATE)/bin/pip install --quiet --upgrade pip
	$(GENERATE)/bin/pip install --quiet --editable . --group generate
	@touch $@

.PHONY: generate
generate: $(GENERATE)/.installed ## write the committed stubs from the .proto files
	$(GENERATE)/bin/python protos/generate.py

.PHONY: test
test: install ## run the tests
	$(BIN)/pytest -q
