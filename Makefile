# make train    trains a ResNet-20 on real images, from a bare clone, in about a minute
# make test     lint, types and the tests that take milliseconds; says at its end what it has left to test-all
# make test-all everything else: processes, whole runs, PyTorch, real images; and the numbers compiled as users compile
# make experiments  runs the small form of each experiment on the paper, and writes what they found as a page
# make benchmarks  times training and inference in turn with PyTorch and plain Linen, and prints the ratios
# make docs     builds the documentation into build/docs, offline; a warning is an error
# make lock     writes constraints.txt anew, from the newest versions that PYTHONS can install
# make install  what the other targets do first: an environment in .venv, made with PYTHON
PYTHON ?= python3
PYTHONS ?= python3.11 python3.13
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# The longest files hold few tests and would come last in another order than that of their names.
# A worker that died is not replaced: pytest-xdist 3.8 waits forever, once in three times, for what it had begun.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0
QUICK := not slow and not torch and not test_data
# What learns is tested once more as users compile it, which takes twice as long.
NUMERICS := $(addprefix tests/,models training)

.PHONY: install train test test-all experiments benchmarks docs lint format lock clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(INSTALL) --editable '.[test]'
	touch $@

# Where there is no PyTorch for a version of Python, the tests that need it are skipped, but not in CI.
$(VENV)/.installed-all: $(VENV)/.installed
	$(INSTALL) --editable '.[test_all]'
	$(INSTALL) --editable '.[torch]' || test -z "$$CI"
	touch $@

train: install
	$(BIN)/resnet-jax train --config=digits --workdir=runs/digits

test: lint
	$(PYTEST) -m '$(QUICK)'

test-all: $(VENV)/.installed-all lint docs
	$(PYTEST) -m 'not ($(QUICK))'
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST) -m '$(QUICK)' $(NUMERICS)

# One after another; a result that is there stays, and a training that was stopped goes on.
RESULTS := runs/paper/results
PAPER := $(filter-out experiment imagenet,$(notdir $(basename $(wildcard experiments/paper/*.py))))

experiments: $(PAPER:%=$(RESULTS)/%.json)
	$(BIN)/resnet-jax report $(RESULTS) --output=runs/paper/report.html

$(RESULTS)/%.json: experiments/paper/%.py | $(VENV)/.installed
	$(BIN)/python $< --workdir=runs/paper/$* --output=$@

benchmarks: install
	$(INSTALL) --editable '.[torch,onednn]'
	$(BIN)/python experiments/benchmarks/peers.py --output=runs/benchmarks/peers.json

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) --editable '.[docs]'
	touch $@

# What Sphinx keeps between two builds hides warnings of pages that did not change: it begins anew.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --quiet --fresh-env --nitpicky --fail-on-warning --builder html docs build/docs
	@echo "the documentation is build/docs/index.html"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	$(PYTHON) .ci/lock.py $(PYTHONS) > constraints.new
	mv constraints.new constraints.txt

# Removes what the targets above made, and no run.
clean:
	rm -rf $(VENV) build dist docs/generated .pytest_cache .ruff_cache src/*.egg-info
