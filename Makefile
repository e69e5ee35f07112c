# `make help` lists the targets. Everything happens inside .venv; the first run of any target sets it up.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready
DEMO    = outputs/demo

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format type clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY) ## Set up .venv with segtrain, editable, and everything for its tests

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "segtrain needs Python 3.11 or newer; say which by: make $@ PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## Train, evaluate and draw a U-Net on the embedded shapes data set (a few minutes on two cores)
	@rm -rf $(DEMO)
	$(BIN)/segtrain train experiment=demo run_dir=$(DEMO)

test: $(READY) ## Run the tests but the slow ones and those that need CUDA
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: $(READY) ## Run all tests that this machine can run, the slow ones included
	$(BIN)/python -m pytest

lint: $(READY) ## Check style and types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY) ## Check types
	$(BIN)/mypy

clean: ## Remove what the tools cached; .venv and outputs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -exec rm -rf {} +
