# Two commands set everything up: `make demo` (captions the example photographs) and `make test` (the whole suite).
# `make docs` builds the documentation into build/site.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

CODE = src tests bench docs/hooks docs/from-picture-to-caption.ipynb

.PHONY: demo test docs bench lint clean

demo: $(VENV)/.core
	$(BIN)/showtell caption examples/*.jpg

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n auto --dist loadfile

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python bench/start.py
	$(BIN)/python bench/runtime.py
	$(BIN)/python bench/images.py
	$(BIN)/python bench/metrics.py
	$(BIN)/python bench/rewards.py
	$(PIP) keras
	$(BIN)/python bench/training.py
	$(BIN)/python bench/datasets.py
	$(BIN)/python bench/duplicates.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
