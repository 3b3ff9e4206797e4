# make demo   sets everything up and decodes real code, faster, with proof
# make test   sets everything up and runs the whole suite

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Compiled programs are kept between runs; a second run starts sooner.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.1
WORKERS ?= 2

.PHONY: demo test test-fast lint notebooks mutations bundle speed clean

demo: $(STAMP)
	$(BIN)/python -m experiments.demo --out=out/demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist=loadgroup

test-fast: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist=loadgroup -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .

mutations: $(STAMP)
	$(BIN)/python -m tests.mutations --out=out/mutations.md

notebooks: $(STAMP)
	$(BIN)/python -m tests.notebooks --write

# Where a round's time goes, and how it grows.
speed: $(STAMP)
	$(BIN)/python -m experiments.profile_round --out=out/profile
	$(BIN)/python -m experiments.scaling --out=out/scaling

# The whole recipe of the shipped models: tokenizer, target, draft.
bundle: $(STAMP)
	$(BIN)/python -m experiments.train --bundle=tiny-python --out=out/train

$(STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) out .cache build *.egg-info
