# make train   trains a ResNet-20 on real images, from a bare clone, in about a minute
# make test    lint, types and every test
# make install what the other targets do first: an environment in .venv, made with PYTHON
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install train test lint format clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

train: install
	$(BIN)/resnet-jax train --config=digits --workdir=runs/digits

# In the order of their names, since the longest files hold few tests and would come last otherwise.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Removes what the targets above made, and no run.
clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache src/*.egg-info
