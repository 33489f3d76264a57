# make quickstart: set up and train a real model.   make test: set up, lint, type-check, test.
# make quick: lint and the tests that take no minute, for work in between.
# PIP_ARGS is passed to pip, for example to take another build of torch:
#   make quickstart PIP_ARGS="--index-url <index of a CPU build>"

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# One process a core, each with one thread: threads of several processes would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

.PHONY: quickstart test quick
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[test]'
	touch $@

quickstart: $(VENV)/.installed
	$(BIN)/python main.py fit --config configs/classification/digits_vim.yaml
	@echo
	@echo "Next:"
	@echo "  $(BIN)/python main.py test --config configs/classification/digits_vim.yaml"
	@echo "  $(BIN)/python main.py fit --config configs/language_modeling/pydoc_mamba.yaml"
	@echo "  $(BIN)/python main.py compare --config configs/compare/first.yaml"

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"
	TRITON_INTERPRET=1 $(PYTEST) -m "not slow" tests/kernels_interpreted

quick: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(PYTEST) -m "not slow and not thorough"
