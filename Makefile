# `make demo` shows dstack at work, `make test` tests it. Both make what they need first, in .venv.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq
# One more than the two cores of the smallest machine: end-to-end tests wait half of their time.
WORKERS ?= 3
ARGS ?=
HISTORIES ?= 2000
SEED ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.PHONY: help demo test check sim deep format docs site bench bench-autoscale bench-engine bench-placement bench-proxy bench-replicas clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/installed ## train a classifier on handwritten digits, as a task on this machine
	@$(BIN)/dstack apply -f examples/digits/digits.dstack.yml --repo examples/digits -y

test: $(VENV)/installed-dev ## run the tests; `make test ARGS="tests/unit -k ranges"` for some of them
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup $(ARGS)

check: $(VENV)/installed-dev ## format, lint, types, import contracts
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@for system in darwin win32; do \
	  $(BIN)/mypy --config-file .mypy-systems.ini --platform $$system --cache-dir .mypy_cache/$$system --no-error-summary || exit; \
	done
	@$(BIN)/lint-imports --no-logo

sim: $(VENV)/installed-dev ## live through 2,000 made-up histories; `make sim SEED=7` tells one of them
	@$(BIN)/python -m dstack.testing --workers $(WORKERS) --histories $(HISTORIES) $(if $(SEED),--seed $(SEED))

deep: $(VENV)/installed-dev ## run what takes long or draws its chance anew; `make deep SEED=7` repeats it
	@BIN=$(BIN) WORKERS=$(WORKERS) HISTORIES=$(HISTORIES) SEED=$(SEED) scripts/deep $(ARGS)

format: $(VENV)/installed-dev ## put the code into its one form
	@$(BIN)/ruff format --quiet
	@$(BIN)/ruff check --fix --quiet

docs: $(VENV)/installed-dev ## write the pages, and the classes of dstack.api.aio, that come from the code
	@$(BIN)/python scripts/write_docs.py
	@$(BIN)/python -m scripts.write_aio

site: $(VENV)/installed-dev ## build the documentation site in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet && echo "Open site/index.html"

bench: $(VENV)/installed-dev ## measure speed, as ratios to what bare Python and a bare shell take
	@$(BIN)/python -m bench.main $(ARGS)

bench-autoscale: $(VENV)/installed-dev ## compare the rule that scales services with the plain one (two to four minutes)
	@$(BIN)/python -m bench.autoscaling.main $(ARGS)

bench-engine: $(VENV)/installed-dev ## measure a server that holds 10,000 jobs on 1,000 made-up machines (five minutes)
	@$(BIN)/python -m bench.engine.main $(ARGS)

bench-proxy: $(VENV)/installed-dev ## measure the data plane beside nginx, Caddy, and FastAPI with httpx (three minutes)
	@$(BIN)/python -m bench.proxy.main $(ARGS)

bench-placement: $(VENV)/installed-dev ## measure the cost of 50,000 offers, beside a loop over all of them
	@$(BIN)/python -m bench.main placement

bench-replicas: $(VENV)/installed-dev ## measure two servers on one PostgreSQL database with all of that (four minutes)
	@$(BIN)/python -m bench.replicas.main $(ARGS)

clean: ## remove the environment
	@rm -rf $(VENV)

$(BIN)/python:
	@python=$(if $(PYTHON),$(PYTHON),$$(scripts/find-python)) && "$$python" -m venv --clear $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "Installing dstack into $(VENV) (once; less than a minute)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing dstack and what its developers use into $(VENV) (once; about a minute)"
	@$(PIP) install --editable '.[dev]'
	@touch $(VENV)/installed $@
