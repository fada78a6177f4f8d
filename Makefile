# Two commands, on a fresh machine with Python >= 3.11 and make:
#   make run    makes the virtual environment, installs, runs the demo
#   make test   the same environment, then lint, types and the whole suite
# Another Python: make run PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# Old pips don't know --group.
PIP_NEEDED := pip>=25.1
# Of pip's output, what shows that a long install moves: the large downloads and the long unpacking.
PROGRESS := sed -n -e '/^ *Downloading .*[0-9][0-9]\.*[0-9]* [MG]B/p' -e 's/^Installing collected packages.*/unpacking/p'
# setuptools warns of every editable install from a flat folder.
QUIET := ignore:Editable installation

.DEFAULT_GOAL := help
.PHONY: help install run test lint format model simulate chaos bench-storage bench-delivery bench-vision bench-cloud clean
.DELETE_ON_ERROR:

help:
	@echo "make run      install, then run the demo"
	@echo "make test     install, then lint, types and the whole suite"
	@echo "make install  only install, into $(VENV)"
	@echo "make lint     ruff and mypy;  make format  let ruff rewrite the sources"
	@echo "make model    train the built-in model anew (make model ARGS='--epochs 1')"
	@echo "make simulate 10,000 seeds of the simulated system, the summary into docs/simulation.json (an hour or more)"
	@echo "make chaos    every fault of docs/proof.md against real processes (ARGS=--short: some minutes; root can do more)"
	@echo "make bench-storage, bench-delivery, bench-vision, bench-cloud    measure what it costs (5 to 10 minutes each)"
	@echo "make clean    remove $(VENV) and all caches"

install: $(VENV)/.installed

# Made anew when its Python is gone or was never finished; a second `make` finds the stamp and does nothing.
$(VENV)/.installed: pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: no '$(PYTHON)' here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1)." \
	    "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PY)" -c 'import pip' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV) || { \
	  echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "installing; PyTorch is large, this takes a minute or two"
	@$(PIP) install --quiet --upgrade "$(PIP_NEEDED)"
	@rm -f $(VENV)/.failed
	@{ PYTHONWARNINGS="$(QUIET)" $(PIP) install --progress-bar off -e '.[yolo]' --group dev || touch $(VENV)/.failed; } | $(PROGRESS)
	@if [ -e $(VENV)/.failed ]; then echo "error: the install failed; pip's own words stand above" >&2; exit 1; fi
	@touch $@
	@echo "installed into $(VENV)"

$(VENV)/.trainable: $(VENV)/.installed
	@PYTHONWARNINGS="$(QUIET)" $(PIP) install --quiet -e '.[train]'
	@touch $@

run: install
	@$(PY) app.py demo

# pytest speaks last: its closing line has the counts.
test: lint
	@$(PY) -m pytest -n 2

lint: install
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy

format: install
	@$(PY) -m ruff check --fix --quiet .
	@$(PY) -m ruff format --quiet .

model: $(VENV)/.trainable
	@$(PY) -m tools.train $(ARGS)

$(VENV)/.benched: $(VENV)/.installed
	@$(PIP) install --quiet --group bench
	@touch $@

simulate: $(VENV)/.installed
	@$(PY) -m chaos.simulate --seeds 0..10000 --json docs/simulation.json $(ARGS)

chaos: $(VENV)/.installed
	@$(PY) -m chaos run all $(ARGS)

bench-storage: $(VENV)/.benched
	@$(PY) -m bench.storage $(ARGS)

bench-delivery: $(VENV)/.benched
	@$(PY) -m bench.delivery $(ARGS)

bench-vision: $(VENV)/.installed
	@$(PY) -m bench.vision $(ARGS)

bench-cloud: $(VENV)/.installed
	@$(PY) -m bench.cloud $(ARGS)

clean:
	rm -rf $(VENV) *.egg-info build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
