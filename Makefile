# The same commands for people and for CI. `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
GPU := $(shell nvidia-smi -L 2>/dev/null | head -n 1)

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): pyproject.toml constraints.txt deploy/install.sh
	PYTHON="$(PYTHON)" GPU="$(GPU)" sh deploy/install.sh
	@touch $@

up: install ## Run Hearken on this machine: http://127.0.0.1:8000
	@exec $(BIN)/hearken up

test: install ## Run all tests
	$(BIN)/python -m pytest

check: install ## Lint, types, import rules; needs no network
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## Measure the figures that the README states (about an hour)
	$(BIN)/python -m tests.bench

clean: ## Remove what was installed and built (your data in .hearken stays)
	rm -rf .venv dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.PHONY: help install up test check bench clean
