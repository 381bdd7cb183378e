# Every target sets up what it needs: Python >= 3.11, make and the package registries are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Nothing is resolved, and nothing is fetched to build with: the locks name every package. So neither
# the version of pip nor what has been published since can change what is installed; `pip check`
# says what a lock lacks. nkeys is published as source alone, and is built by what build.txt brings.
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	--no-build-isolation --only-binary :all: --no-binary nkeys
# Three processes for two cores: tests wait for servers and clocks a third of their time; a fourth
# gained nothing. By file: what a file's tests share is made once.
PYTEST := $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder
UV_COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --no-strip-extras \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help install lint typecheck imports test test-fast coverage properties storm chaos demo up bench bench-gateway lock \
	run-ingestor run-normalizer run-gateway run-recovery run-archive run-replay watch-gateway clean \
	compose-up compose-down helm-check

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## create .venv from the hashed lock

$(STAMP): requirements/build.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "LedgerFlux needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv --clear $(VENV)
	@echo "installing $$(grep -c == requirements/dev.txt) packages from requirements/dev.txt: a minute or two"
	$(PIP_INSTALL) -r requirements/build.txt
	$(PIP_INSTALL) -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/pip check
	@touch $@

lint: install ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: install ## mypy, strict
	$(BIN)/mypy

imports: install ## import-linter: who may import whom
	$(BIN)/lint-imports

test: lint typecheck imports ## the gate: lint, types, imports, all tests
	$(PYTEST)

test-fast: lint typecheck imports ## for the inner loop: lint, types, imports, unit and property tests
	$(PYTEST) tests/unit tests/properties

coverage: install ## all tests with the branch coverage of every process, held to a floor
	$(PYTEST) --cov --cov-report=term:skip-covered

properties: install ## every property on as many examples as stand at it, as at night
	$(PYTEST) --hypothesis-profile=nightly tests/unit tests/properties

storm: install ## a thousand gaps; half an hour archived while all fails: the whole of what tests do in short
	STORM=whole $(BIN)/pytest -q tests/integration/test_recovery_storm.py
	$(BIN)/python -m tests.archive_storm

chaos: install ## kill, pause, cut and restart everything under load, and judge; SEED= DURATION=
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(DURATION),--duration $(DURATION))

demo: install ## the whole system here, against the simulator, with gaps and a live table
	$(BIN)/ledgerflux up --venue sim --watch --gap-every 10

up: install ## the whole system on this machine, against the simulator
	$(BIN)/ledgerflux up --venue sim

bench: install ## measure; merges bench/results.json
	$(BIN)/python -m bench

bench-gateway: install ## measure the gateway alone, on one core, beside the usual ways to send
	$(BIN)/python -m bench gateway-fanout gateway-latency gateway-memory gateway-snapshot gateway-resume

run-ingestor: install ## one ingestor against the settings in the environment
	$(BIN)/python -m workers.ingestor

run-normalizer: install ## one normalizer
	$(BIN)/python -m workers.normalizer

run-gateway: install ## one gateway
	$(BIN)/python -m workers.gateway

run-recovery: install ## one recovery worker: dispatcher, workflows, activities
	$(BIN)/python -m workers.temporal

run-archive: install ## one archive worker: the log to the lake, compaction, audit
	$(BIN)/python -m workers.archive

run-replay: install ## one replay worker: the lake into namespaces of their own
	$(BIN)/python -m workers.replay

watch-gateway: install ## a live table of what a gateway serves
	$(BIN)/ledgerflux watch

compose-up: .env ## the whole system in containers, against what .env says (the simulator at first)
	docker compose up --build --detach --wait

compose-down: ## stop the containers; their volumes, and so all data, stay
	docker compose --profile "*" down --remove-orphans

# Random secrets, made once. Each begins with a letter, as nats-server's configuration needs it.
.env:
	@umask 077 && { for name in NATS_PASSWORD S3_ACCESS_KEY S3_SECRET_KEY GRAFANA_PASSWORD; do \
		echo "$$name=s$$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"; done; \
		echo "# Against the simulated exchange; without the next three lines, against the live one."; \
		echo "COMPOSE_PROFILES=sim"; \
		echo "COINBASE_WS_PRIMARY=ws://simulator:8900"; \
		echo "COINBASE_REST_URL=http://simulator:8900"; } > $@
	@echo "wrote $@ with new secrets"

helm-check: install ## what is deployed: chart, compose file and pipelines, rendered and validated
	$(BIN)/pytest -q --no-cov tests/deploy

lock: install ## refresh the hashed locks from pyproject.toml
	$(UV_COMPILE) pyproject.toml -o requirements/run.txt
	$(UV_COMPILE) --group dev pyproject.toml -c requirements/run.txt -o requirements/dev.txt
	$(UV_COMPILE) --group build -c requirements/dev.txt -o requirements/build.txt

clean: ## remove the environment and local data
	rm -rf $(VENV) .ledgerflux .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
