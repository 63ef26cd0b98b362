# Everything a user or CI runs. `make demo` and `make test` do all the set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo demo-rlhf test check bench bench-peers test-all schemas clean

$(VENV)/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m hwopt.cli search benchmarks/studies/demo.yaml -o runs/demo

demo-rlhf: $(VENV)/.installed
	$(BIN)/python -m rlhf.cli train -o runs/rlhf-demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m "not slow" tests

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/kernel.py
	$(BIN)/python benchmarks/mapper.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/seed_paper.py
	$(BIN)/python benchmarks/rollout.py
	$(BIN)/python benchmarks/zero_matrix.py

# The tools of others that benchmarks run beside ours, in an environment of their own.
$(PEERS)/.installed: benchmarks/requirements-peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

bench-peers: $(PEERS)/.installed

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 tests

schemas: $(VENV)/.installed
	$(BIN)/python -m hwopt.cli schema -o schemas
	$(BIN)/python -m rlhf.cli schema -o schemas

clean:
	rm -rf $(VENV) $(PEERS) runs .cache
