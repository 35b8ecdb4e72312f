# On a machine with git, make and Python 3.11 or newer, `make serve` and `make test` do everything.
# The first of them creates .venv and installs: `make serve` what a server needs, `make test` and others the tools of
# developers too. After that nothing is installed again until pyproject.toml or constraints.txt changes. ARGS passes flags on: make serve ARGS="--port 9000", make test ARGS="-k scheduler".
# EXTRAS and TOOLS name the extras and the dependency groups of pyproject.toml to install, separated by commas.

ARGS ?=
VENV ?= .venv
EXTRAS ?= train,s3,c2pa,otel
TOOLS ?= test
# Processes that run tests at the same time, at most 8; 0 runs them in one, as a debugger needs. As many as there are
# processors run the fast ones, half as many again all of them, which often wait: see tests/conftest.py.
JOBS ?= logical
PARALLEL := -n $(JOBS) --maxprocesses 8
FAST := tests/pure tests/app tests/test_architecture.py
PYTHON_NAMES ?= python3.13 python3.12 python3.11 python3 python

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed-$(TOOLS)+$(EXTRAS)
# What a server needs and nothing else.
SERVER := $(VENV)/.installed-server
# With the tools that check and list what is deployed.
DEPLOY_INSTALLED := $(VENV)/.installed-test,deploy+train,ray
# Clients of other projects, for tests/clients.
CLIENTS := build/clients
# An environment with what a server needs and nothing else.
RUNTIME := build/runtime
# Where `make wheelhouse` puts its wheels.
WHEELHOUSE ?= dist/wheelhouse
# Servers of other projects, for benchmarks.bench_peers.
PEERS := build/peers
# An S3-compatible server for tests, in an environment of its own: it needs other versions of what is pinned here.
MOTO := build/moto
CODE := $(wildcard star_model server training benchmarks tests)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install serve test test-fast clients peers reliability soak soak-tenants bench check lint types format deploy-check \
    wheelhouse sbom licenses clean

help: ## Say what each target does
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(INSTALLED) ## Create the environment and install what developers need, once

serve: $(SERVER) ## Serve the embedded default model on port 8000; installs no more than that needs
	$(VENV)/bin/star-server serve $(ARGS)

test: $(INSTALLED) $(MOTO)/.installed ## Run every test that needs no special hardware
	$(PY) -m pytest -q $(PARALLEL) --dist loadfile --no-loadscope-reorder --durations=15 $(ARGS)

test-fast: $(INSTALLED) ## Run the tests that start no process or browser and train nothing: two minutes
	$(PY) -m pytest -q $(PARALLEL) --dist worksteal --hypothesis-profile brief -m fast $(FAST) $(ARGS)

clients: $(INSTALLED) $(CLIENTS)/python/.installed $(CLIENTS)/node/.installed ## Install the clients of other projects and test with them
	$(PY) -m pytest -q tests/clients -rs $(ARGS)

peers: $(PEERS)/.installed ## Install the servers that bench_peers compares this one with

reliability: $(INSTALLED) ## Make every fault happen to a running server, and write what is seen into docs/reliability.md
	$(PY) -m tests.faults.page $(ARGS)

soak: $(INSTALLED) ## Ten minutes of honest and hostile traffic; fails if memory, descriptors or threads grow
	$(PY) -m benchmarks.soak $(ARGS)

soak-tenants: $(INSTALLED) ## Ten minutes of tenants, batches, new keys and warm swaps; fails if anything is lost, unfair or grows
	$(PY) -m benchmarks.tenants $(ARGS)

bench: $(INSTALLED) $(PEERS)/.installed ## Measure: a short version of every benchmark; the long ones are in docs/performance.md
	$(PY) -m benchmarks.bench_engine --repeats 3 --batch 1 4 $(ARGS)
	$(PY) -m benchmarks.bench_reference --repeats 3 --batch 1 4 $(ARGS)
	$(PY) -m benchmarks.bench_precision --images 2 $(ARGS)
	$(PY) -m benchmarks.bench_draft --images 2 $(ARGS)
	$(PY) -m benchmarks.bench_agreement --images 8 --batch 4 $(ARGS)
	$(PY) -m benchmarks.bench_memory --slots 4 --batch 1 4 $(ARGS)
	$(PY) -m benchmarks.bench_scheduling --repeats 2 --requests 1000 $(ARGS)
	$(PY) -m benchmarks.bench_busy --rounds 2 --images 2
	$(PY) -m benchmarks.bench_server --repeats 3 --probes 50 --requests 10 --shares 0.8
	$(PY) -m benchmarks.bench_tracing --rounds 3 --requests 20
	$(PY) -m benchmarks.bench_peers --short

check: lint types ## Run lint and types

lint: $(INSTALLED) ## Run ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(INSTALLED) ## Run mypy in strict mode
	$(PY) -m mypy $(CODE)

format: $(INSTALLED) ## Rewrite the code as ruff would have it
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

deploy-check: $(DEPLOY_INSTALLED) ## Check all that deploys; says what ran, and what was skipped and why
	$(PY) -m pytest -q tests/deploy -m "network or not network" --deploy-report $(ARGS)

# Emptied first: pip would add to what is there, and an install without an index takes the newest that it finds.
wheelhouse: | $(PY) ## Collect all wheels of a server in dist/wheelhouse, to install without a network
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --default-pip
	rm -rf $(WHEELHOUSE)
	$(PY) -m pip wheel --disable-pip-version-check -c constraints.txt --wheel-dir $(WHEELHOUSE) .

sbom: $(RUNTIME)/.installed ## List what a server runs on, as CycloneDX, in dist/
	@test -x build/sbom/bin/cyclonedx-py || { $(PY) -m venv --clear build/sbom && \
	    build/sbom/bin/python -m pip install --disable-pip-version-check -c constraints.txt cyclonedx-bom; }
	@mkdir -p dist
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-file dist/star-server.cdx.json $(RUNTIME)/bin/python

licenses: $(RUNTIME)/.installed $(DEPLOY_INSTALLED) ## Write the table of licences, docs/licenses.md
	$(VENV)/bin/pip-licenses --python $(RUNTIME)/bin/python --format markdown --order name --no-version \
	    --ignore-packages star-server pip setuptools --output-file build/licenses.md
	@sed '/^| Name/,$$d' docs/licenses.md > build/licenses.head
	@cat build/licenses.head build/licenses.md > docs/licenses.md

clean: ## Remove caches and build outputs; the environment, models and training runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stem of the mark names what was installed: groups, a plus, extras.
COMMA := ,
PARTS = $(subst +, ,$*)
GROUP_FLAGS = $(addprefix --group ,$(subst $(COMMA), ,$(firstword $(PARTS))))

# Before 25.1, pip knows no dependency groups. An interrupted creation can leave a Python
# without pip behind: hence the first line.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(PY)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --default-pip
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt 'pip>=25.1'
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt $(GROUP_FLAGS) -e '.[$(lastword $(PARTS))]'
	@touch $@

$(SERVER): pyproject.toml constraints.txt | $(PY)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --default-pip
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(RUNTIME)/.installed: pyproject.toml constraints.txt | $(PY)
	$(PY) -m venv --clear $(RUNTIME)
	$(RUNTIME)/bin/python -m pip install --disable-pip-version-check -c constraints.txt .
	@touch $@

# Their own requirements contradict the pins of constraints.txt; torch is the one that this server runs.
$(PEERS)/.installed: benchmarks/peers/requirements.txt pyproject.toml constraints.txt | $(PY)
	$(PY) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check -r $< . $$(grep '^torch==' constraints.txt)
	@touch $@

$(MOTO)/.installed: tests/processes/moto.txt | $(PY)
	$(PY) -m venv --clear $(MOTO)
	$(MOTO)/bin/python -m pip install --disable-pip-version-check -r tests/processes/moto.txt
	@touch $@

$(CLIENTS)/python/.installed: tests/clients/requirements.txt | $(PY)
	$(PY) -m venv --clear $(CLIENTS)/python
	$(CLIENTS)/python/bin/python -m pip install --disable-pip-version-check -r tests/clients/requirements.txt
	@touch $@

# Without npm those tests are skipped, and say so.
$(CLIENTS)/node/.installed: tests/clients/package.json
	@mkdir -p $(CLIENTS)/node && cp tests/clients/package.json $(CLIENTS)/node
	@if command -v npm >/dev/null; then \
	    npm install --prefix $(CLIENTS)/node --no-audit --no-fund --no-package-lock && touch $@; \
	else echo "npm is missing: the clients for Node are not installed."; fi

# Reached only when there is no Python behind that name: none yet, or a link to one that is gone.
$(PY):
	@rm -f $(VENV)/bin/python*; \
	for name in $(PYTHON_NAMES); do \
	    if $$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        echo "Creating $(VENV) with $$($$name --version)"; \
	        exec $$name -m venv $(VENV); \
	    fi; \
	done; \
	echo "No Python 3.11 or newer with the venv module among: $(PYTHON_NAMES)." >&2; \
	echo "Install one (on Debian and Ubuntu: apt install python3 python3-venv), or name yours: make PYTHON_NAMES=/path/to/python3" >&2; \
	exit 1
