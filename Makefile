# spamlit. `make` alone lists the targets; ARGS="…" is passed on to the command behind a target.
.DEFAULT_GOAL := help
.PHONY: help setup train serve test faults lint audit bench ablation results lock clean
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
ARGS ?=

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  e.g. make train ARGS="model.trainable=last_two_blocks seed=1"   make test ARGS="-k tokenizer"'

setup: $(INSTALLED)  ## Create .venv and install what the locks pin (a no-op when up to date)

# Only torch and its GPU libraries come without hashes: their build (CPU, CUDA, Metal) is left to the machine and its pip
# settings. The last line installs this checkout and nothing else.
$(INSTALLED): requirements-dev.lock requirements-torch.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 15) or sys.exit("error: spamlit needs Python 3.11 to 3.14, but $(PYTHON) is %d.%d. Name another one: make setup PYTHON=python3.12" % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned packages into $(VENV) (minutes the first time, more where torch comes with CUDA)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-warn-conflicts -c requirements-torch.lock torch
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

train: setup  ## Fine-tune the default classifier; ARGS are Hydra overrides
	$(BIN)/python train.py $(ARGS)

serve: setup  ## Serve the newest run with its page at http://127.0.0.1:8000; ARGS="--run RUN --port P"
	$(BIN)/spamlit serve $(ARGS)

test: setup  ## Run the tests and doctests; without ARGS in two processes, requiring 90 % coverage of src/
	$(BIN)/python -m pytest $(or $(ARGS),-n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90)

# The server's soak first: it takes ten minutes, in which the other process does much of the rest.
faults: setup  ## Do to it all that tests/faults/ knows (half an hour) into docs/faults.md; a part, unwritten: ARGS="-k kill"
	SPAMLIT_FAULTS=full $(BIN)/python -m pytest -m fault $(or $(ARGS),-n 2 --dist loadfile --no-loadscope-reorder \
	    --faults-table docs/faults.md tests/faults/test_server.py tests)

lint: setup  ## Check style, formatting, types and the direction of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# --strict: a package that pypi.org says nothing about fails the audit; pip-audit would pass over it and call all sound.
audit: setup  ## Ask pypi.org for known vulnerabilities of the locked packages; fails where it does not answer
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements-dev.lock $(ARGS)
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r requirements-torch.lock $(ARGS)

bench: setup  ## Measure ours and the peers' side by side (hours; ARGS="--quick" for minutes) into benchmarks/
	$(BIN)/python -m benchmarks.run $(ARGS)

# Rows that train everything, or read the context, take hours on a CPU: ROWS=row01,row02 chooses. A stopped table goes on.
BACKBONE ?= smollm2-135m
SEEDS ?= 123
ROWS ?=
comma := ,
ablation: setup  ## Run the published ablation table: BACKBONE=gpt2 SEEDS=123,1,2 ROWS=row01,row16; a stopped one goes on
	$(BIN)/python train.py sweep=ablation backbone=$(BACKBONE) seed=$(SEEDS) \
	    hydra.sweep.dir=outputs/ablation/$(BACKBONE) \
	    $(if $(ROWS),experiment=ablation/$(subst $(comma),$(comma)ablation/,$(ROWS))) $(ARGS)
	$(BIN)/spamlit ablation outputs/ablation/$(BACKBONE)

results: setup  ## Train and test all systems on the same splits (hours; a stopped one goes on) into docs/results*.md
	$(BIN)/spamlit results $(ARGS)

# The locks hold for every platform and Python that pyproject.toml admits. UPGRADE=1 takes newer versions where allowed.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate $(if $(UPGRADE),--upgrade) \
    --custom-compile-command "make lock"
lock: setup  ## Pin the dependencies again after a change of pyproject.toml
	$(LOCK) --generate-hashes --no-emit-package torch pyproject.toml -o requirements.lock
	$(LOCK) --generate-hashes --no-emit-package torch -c requirements.lock pyproject.toml --extra dev --group lesson \
	    -o requirements-dev.lock
	echo "torch==2.13.0" | $(LOCK) --no-config -c requirements.lock - -o requirements-torch.lock

clean:  ## Remove caches and build products; keeps .venv and outputs/
	rm -rf build dist .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
