PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/digits_deep
ARGS ?=

BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed

.PHONY: help demo test lint install clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(INSTALLED)  ## create the virtual environment and install jbism with all extras

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: $(INSTALLED)  ## train a deep EBLVM on digits and draw samples (ARGS=--overwrite starts over)
	$(BIN)/python -m experiments.train --config=experiments/configs/digits_deep.py \
		--workdir=$(WORKDIR) $(ARGS)

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## style, types, doctests and tests
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

clean:  ## remove the virtual environment and caches, not the runs
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
