# The one way to run anything here. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# The environment is ready when the stamp of exactly these pins exists.
PINS := $(shell cat requirements.lock pyproject.toml | sha256sum | cut -c1-16)
READY := .venv/.ready-$(PINS)

.PHONY: help install torch demo demo-network test check format names campaign campaign-ci bench accept lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 14

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than 3.11: set PYTHON to a newer interpreter" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; } \
	  || { rm -rf .venv; echo "cannot make .venv: install the venv package of $(PYTHON)" >&2; exit 5; }
	@echo "installing the locked packages"
	@$(BIN)/python -m pip install -qq --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@rm -f .venv/.ready-* && touch $@

install: $(READY)  ## make .venv from requirements.lock

torch: $(READY)  ## add torch, pinned by version, to .venv
	@$(BIN)/python -m pip install -qq --no-deps -r requirements-torch.txt

demo: $(READY)  ## four hospitals, one model, a report and a bundle anyone can verify
	@$(BIN)/treaty demo

demo-network: $(READY)  ## the same as processes over a NATS server, beside the embedded engine
	@$(BIN)/python -m tools.demo_network
	@$(BIN)/python -m tools.demo_network --private

test: $(READY)  ## all tests but the slow ones and the campaigns, on two processors
	@$(BIN)/python -m pytest --no-header -m "not slow" --numprocesses 2

check: $(READY)  ## lint, format, types and import contracts
	@status=0; \
	  $(BIN)/ruff check --quiet . || status=1; \
	  $(BIN)/ruff format --check --quiet --output-format concise . || status=1; \
	  $(BIN)/mypy --no-error-summary || status=1; \
	  $(BIN)/lint-imports --no-logo > .venv/imports.log 2>&1 || { cat .venv/imports.log; status=1; }; \
	  test $$status = 0 && echo "lint, format, types and imports hold"

format: $(READY)  ## rewrite the sources in the one format
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

names: $(READY)  ## rewrite the snapshot of public names
	@$(BIN)/python tools/update_public_names.py

campaign-ci: $(READY)  ## the campaigns in their short form, 7 minutes each at most
	@TREATY_CAMPAIGN=ci $(BIN)/python -m pytest --no-header --timeout 420 tests/campaign

campaign: $(READY)  ## the campaigns in full, hours
	@TREATY_CAMPAIGN=full $(BIN)/python -m pytest --no-header --timeout 0 tests/campaign

bench: $(READY)  ## the benchmarks, one after another
	@status=0; for run in "learning --data heart" "learning --data ist --quick" "privacy --quick" rounds \
	    "secagg --quick" engine store_commit privacy_sampler privacy_accountant privacy_ledger; do \
	    echo "== $$run"; $(BIN)/python -m benchmarks.$$run || status=1; \
	  done; exit $$status

accept: export TREATY_REQUIRE := data,vectors,torch,nats,postgres,sandbox
accept: torch check  ## everything, and nothing may skip
	@$(BIN)/python -m pytest --no-header
	@$(MAKE) --no-print-directory campaign-ci
	@$(BIN)/treaty demo --out "$$(mktemp -d)/demo"
	@$(BIN)/python -m tools.demo_network
	@$(MAKE) --no-print-directory bench

lock: $(READY)  ## pin again from requirements.in and requirements-dev.in
	@$(BIN)/python tools/lock.py

clean:  ## remove what the tools leave behind; .venv stays
	@rm -rf build dist treaty-demo src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
