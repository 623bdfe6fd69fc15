# `make demo` and `make test` are all that a visitor needs. Each makes its own environment.

PYTHON ?= python3
# Test processes at a time: 2 suit two cores.
JOBS ?= 2

# Which tests `make test` runs.
TESTS ?= not slow and not landing

# How long `make fuzz` tries, and the number of its first case.
FUZZ_SECONDS ?= 600
FUZZ_FIRST ?= 0

# oneDNN's gradients of depthwise and separable convolutions crash on some AVX-512 processors, in
# plain Keras too. Only slow tests train such layers. (ONEDNN_MAX_CPU_ISA=AVX2 avoids the crash as
# well, but ends TensorFlow at float16 and bfloat16 on processors that have these.)
WITHOUT_ONEDNN := TF_ENABLE_ONEDNN_OPTS=0

# Python compiles what is imported when it is imported, a small part of what is installed, and keeps
# it: else each process would compile Keras and TensorFlow again, for 20 s.
QUICKLY := --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE

# On JAX, to compile a tiny model takes longer than to run it; `make test-all` optimizes in full.
COMPILED_FAST := JAX_DISABLE_MOST_OPTIMIZATIONS=1

BIN := .venv/bin
DEMO_BIN := .venv-demo/bin
BENCH_BIN := .venv-bench/bin
SITE := build/docs/docs/index.html
PEERS_BIN := .venv-peers/bin
PACKAGE := setup.cfg pyproject.toml requirements.txt
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n $(JOBS) --dist worksteal
# What takes long among hundreds of slow tests, to see what to make cheaper.
SLOWEST := --durations 30 --durations-min 10

# Each takes some twenty minutes by itself.
KILLS := tests/backup/test_kills.py tests/tuning/test_worker_kills.py
DIFFERENTIAL := tests/test_fuzz.py tests/test_fuzz_cache.py

.DEFAULT_GOAL := help
.PHONY: help demo demo-search bench test test-backends test-all test-all-kills test-all-differential test-all-tensorflow test-all-jax test-all-torch fuzz lint types format notebooks docs docs-open dist clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: export TF_CPP_MIN_LOG_LEVEL ?= 3
demo: .venv-demo/installed  ## Fine-tune VGG16 on photographs, step by step (about 5 minutes)
	$(DEMO_BIN)/python -m keras_freeze demo

demo-search: export TF_CPP_MIN_LOG_LEVEL ?= 3
demo-search: .venv-demo/installed  ## Find out how deep to freeze VGG16 on photographs (about 4 minutes)
	$(DEMO_BIN)/python -m keras_freeze demo-search

bench: export TF_CPP_MIN_LOG_LEVEL ?= 3
bench: .venv-bench/installed .venv-peers/installed .venv/installed-backends  ## Measure what the documentation reports; most scripts keep the runs that are there
	$(BENCH_BIN)/python benchmarks/ulmfit.py run
	$(BENCH_BIN)/python benchmarks/guard.py
	$(BENCH_BIN)/python benchmarks/live_view.py
	$(BENCH_BIN)/python benchmarks/recording.py
	$(BENCH_BIN)/python benchmarks/photographs.py run
	$(BENCH_BIN)/python benchmarks/prefix_cache.py run --peers $(PEERS_BIN)/python
	$(BENCH_BIN)/python benchmarks/adaptive.py run
	$(BENCH_BIN)/python benchmarks/suggest.py run
	$(BENCH_BIN)/python benchmarks/views.py run
	$(BENCH_BIN)/python benchmarks/precision.py run
	$(BENCH_BIN)/python benchmarks/search.py run
	$(BENCH_BIN)/python benchmarks/scale.py run
	$(BIN)/python benchmarks/workers.py run
	$(BIN)/python benchmarks/memory.py run
	$(BIN)/python benchmarks/memory.py peak

test: lint types  ## Check what has to hold at every commit
	$(PYTEST) $(PARALLEL) -m "$(TESTS)"

test-backends: .venv/installed-backends  ## Run the core's tests on JAX and on torch
	KERAS_BACKEND=jax $(COMPILED_FAST) $(PYTEST) $(PARALLEL) -m "backend and not slow and not landing"
	KERAS_BACKEND=torch $(PYTEST) $(PARALLEL) -m "backend and not slow and not landing"

test-all: lint types test-all-kills test-all-differential test-all-tensorflow test-all-jax test-all-torch  ## Check everything: slow tests, on three backends, with many more random cases

test-all-kills: .venv/installed-backends  ## The part of test-all that kills trainings, ten times a case (20 minutes on two cores)
	$(WITHOUT_ONEDNN) $(PYTEST) $(PARALLEL) $(SLOWEST) $(KILLS)

test-all-differential: .venv/installed-backends  ## The part of test-all that compares random models (20 minutes on two cores)
	HYPOTHESIS_PROFILE=thorough $(WITHOUT_ONEDNN) $(PYTEST) $(PARALLEL) $(SLOWEST) $(DIFFERENTIAL)

test-all-tensorflow: .venv/installed-backends  ## The rest of test-all on TensorFlow
	HYPOTHESIS_PROFILE=thorough $(WITHOUT_ONEDNN) $(PYTEST) $(PARALLEL) $(SLOWEST) $(addprefix --ignore ,$(KILLS) $(DIFFERENTIAL))

test-all-jax: .venv/installed-backends  ## The part of test-all on JAX
	KERAS_BACKEND=jax $(PYTEST) $(PARALLEL) $(SLOWEST) -m backend

test-all-torch: .venv/installed-backends  ## The part of test-all on torch
	KERAS_BACKEND=torch $(PYTEST) $(PARALLEL) $(SLOWEST) -m backend

fuzz: export TF_CPP_MIN_LOG_LEVEL ?= 3
fuzz: .venv/installed  ## Compare random models: by schedule and by hand, cached and not (FUZZ_SECONDS=600 each)
	$(BIN)/python tests/fuzz.py --seconds $(FUZZ_SECONDS) --first $(FUZZ_FIRST)
	$(BIN)/python -W ignore tests/fuzz_cache.py --seconds $(FUZZ_SECONDS) --first $(FUZZ_FIRST)

lint: .venv/installed  ## Check style, formatting and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: .venv/installed  ## Check types
	$(BIN)/mypy

format: .venv/installed  ## Format the code and repair what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: .venv/installed  ## Run the notebooks again and keep their new outputs
	$(BIN)/python tests/test_notebooks.py

docs: export TF_CPP_MIN_LOG_LEVEL ?= 3
docs: .venv/installed-docs  ## Build the documentation site, offline; a warning is an error
	$(BIN)/python -m sphinx -c docs -b html -W --keep-going -q . build/docs
	@echo "The site is in $(CURDIR)/$(SITE); make docs-open opens it."

docs-open: docs  ## Build the documentation site and open it in a browser
	$(BIN)/python -m webbrowser "file://$(CURDIR)/$(SITE)"

dist: .venv/installed  ## Build the wheel and the source distribution
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:  ## Remove environments, caches and everything built
	rm -rf .venv .venv-demo .venv-bench .venv-peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: $(PACKAGE)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(QUICKLY) --editable ".[tests]"
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install $(QUICKLY) --editable ".[tests,docs]"
	touch $@

.venv/installed-backends: .venv/installed
	$(BIN)/python -m pip install $(QUICKLY) --editable ".[tests,backends]"
	touch $@

# Where all of it is needed: one installation is sooner done than three.
.venv/installed-all: $(PACKAGE)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(QUICKLY) --editable ".[tests,docs,backends]"
	touch .venv/installed
	touch .venv/installed-docs .venv/installed-backends $@

.venv-demo/installed: $(PACKAGE)
	$(PYTHON) -m venv .venv-demo
	$(DEMO_BIN)/python -m pip install $(QUICKLY) --editable ".[demo]"
	touch $@

.venv-bench/installed: $(PACKAGE)
	$(PYTHON) -m venv .venv-bench
	$(BENCH_BIN)/python -m pip install $(QUICKLY) --editable ".[benchmarks]"
	$(BENCH_BIN)/python -m pip download --quiet --no-deps --no-binary :all: --dest benchmarks/cache textgenrnn==2.0.0 vaderSentiment==3.3.2
	touch $@

# The peers on torch have an environment of their own, with what keras_freeze doesn't need.
.venv-peers/installed: benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS_BIN)/python -m pip install $(QUICKLY) --requirement $<
	touch $@
