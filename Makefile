# Two commands set everything up: `make demo` (captions the example photographs) and `make test` (the whole suite).
# `make docs` builds the documentation into build/site. `make models` trains the models anew from DATA into MODELS: hours,
# of which a GPU saves most; stopped, it goes on, and what is finished is left alone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

DATA ?= ../shared/data
MODELS ?= build/models
WEIGHTS ?= $(DATA)/encoders/mobilenetv2_100.safetensors

CODE = src tests bench docs/hooks docs/from-picture-to-caption.ipynb

.PHONY: demo test docs models bench lint clean

demo: $(VENV)/.core
	$(BIN)/showtell caption examples/*.jpg

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n auto --dist loadfile

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

models: $(MODELS)/default/bundle/bundle.json $(MODELS)/aerial/bundle/bundle.json $(MODELS)/vietnamese/bundle/bundle.json

$(MODELS)/%/bundle/bundle.json: | $(VENV)/.dev
	$(BIN)/showtell train $(RECIPE) $(SOURCES) --out $(MODELS)/$* --encoder-weights $(WEIGHTS) --resume

$(MODELS)/default/bundle/bundle.json: RECIPE = mobile
$(MODELS)/default/bundle/bundle.json: SOURCES = --data $(DATA)/coco --data $(DATA)/coco2k --data $(DATA)/flickr8k \
	--text $(DATA)/coco/annotations/captions_val2017.json --text $(DATA)/flickr8k/Flickr8k_text/Flickr8k.token.txt \
	--foreign $(DATA)/vietnamese
$(MODELS)/aerial/bundle/bundle.json: RECIPE = rsicd
$(MODELS)/aerial/bundle/bundle.json: SOURCES = --data $(DATA)/rsicd
$(MODELS)/vietnamese/bundle/bundle.json: RECIPE = vietnamese
$(MODELS)/vietnamese/bundle/bundle.json: SOURCES = --data $(DATA)/vietnamese
# that encoder has learned from these pictures too
$(MODELS)/vietnamese/bundle/bundle.json: private WEIGHTS = $(MODELS)/default
$(MODELS)/vietnamese/bundle/bundle.json: $(MODELS)/default/bundle/bundle.json

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
