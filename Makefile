# What a person runs. Everything is installed into .venv; programs of the test clusters go to the user's cache folder.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: help demo test test-long test-upgrade test-native statuses lint unit cluster bench bench-control bench-policy bench-redaction bench-union lock manifests clean

help: ## show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'make: Python 3.11 or newer is needed: set PYTHON=...' >&2; exit 1; }
	@echo '==> installing into $(VENV)' >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/installed ## a cluster, an AuditPipeline and its events (DEMO_ARGS=--once ends by itself)
	@$(BIN)/python -m tests.cluster.demo $(DEMO_ARGS)

test: lint unit cluster test-native ## everything

lint: $(VENV)/installed ## ruff, mypy, import-linter, helm lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.manifests.lint

unit: $(VENV)/installed ## tests that need no cluster
	@$(BIN)/python -m tests.cluster.prepare unit
	$(BIN)/pytest -m 'not controlplane and not node and not native and not long'

test-long: $(VENV)/installed ## reliability, two hours: 220 kills, 200 more on a failing disk, an hour of odd bodies, ten minutes of soak
	$(BIN)/pytest -m long --timeout 1800 tests/reliability
	@$(MAKE) --no-print-directory test-upgrade

test-upgrade: $(VENV)/installed ## the release before to this one and back, by helm, on a real node, under load (root on Linux)
	@$(BIN)/python -m tests.cluster.packages && $(BIN)/python -m tests.cluster.prepare node
	$(BIN)/pytest -m 'upgrade and long' --timeout 1800 tests/e2e/test_upgrade.py

statuses: $(VENV)/installed ## a recorder over every disturbance, at the operator's own pace, half an hour
	@$(BIN)/python -m tests.cluster.prepare
	$(BIN)/pytest -m long --timeout 1800 tests/e2e/test_statuses_over_disturbances.py

cluster: $(VENV)/installed ## tests on a real control plane and, where possible, on a real node
	@if [ "$$(id -u)" = 0 ] && [ "$$(uname)" = Linux ]; then $(BIN)/python -m tests.cluster.packages && \
	  $(BIN)/python -m tests.cluster.prepare node; else $(BIN)/python -m tests.cluster.prepare; fi
	@arguments=$$($(BIN)/python -m tests.cluster.tier) && eval "set -- $$arguments" && \
	  $(BIN)/pytest --timeout 900 "$$@"

test-native: $(VENV)/installed ## the same on Kubernetes 1.18, where AuditSink is built in
	@$(BIN)/python -m tests.cluster.prepare native
	@$(BIN)/pytest --timeout 900 -m native

bench: $(VENV)/installed ## the data plane against a naive receiver and the floor (BENCH_ARGS=--quick takes a minute)
	$(BIN)/python -m tests.bench.plane $(BENCH_ARGS)

bench-control: $(VENV)/installed ## apply-to-Ready, requests a reconcile, memory: docs/performance.md
	$(BIN)/python -m tests.bench.control $(BENCH_ARGS)

bench-policy: $(VENV)/installed ## decisions a second, and what an event costs, against a naive loop, json and kube-apiserver
	$(BIN)/python -m tests.bench.policy $(BENCH_ARGS)

bench-redaction: $(VENV)/installed ## what redaction costs an event, by kind of event
	$(BIN)/python -m tests.bench.redaction $(BENCH_ARGS)

bench-union: $(VENV)/installed ## what the union of many policies takes, as ratios to that of ten
	$(BIN)/python -m tests.bench.union $(BENCH_ARGS)

manifests: $(VENV)/installed ## render manifests/install and the chart's CRDs from their sources
	$(BIN)/python -m tests.manifests.render

lock: $(VENV)/installed ## renew requirements/*.txt
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --extra operator -o requirements/runtime.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --extra operator --group dev -c requirements/runtime.txt -o requirements/dev.txt pyproject.toml

clean: ## remove what make made here
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
