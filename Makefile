# Everything starts here; `make` alone prints the targets.
PYTHON ?= python3
CORPUS ?= demo
ROOT ?=
FOLD ?= 1
VIEWS ?=
SPEECH_MODEL ?=
SEED ?= 0
FAST ?=
ARGS ?=

# Packages are installed without bytecode; without this, every command would compile them again.
unexport PYTHONDONTWRITEBYTECODE

# Large pages for malloc: on a CPU, training spends a quarter of its time on fresh small ones (glibc 2.35 on).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

BIN := .venv/bin
# uv where it is there, pip otherwise; neither resolves, the lock file is complete. Bytecode is made on first import.
UV := $(shell command -v uv 2>/dev/null)
INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python --no-deps,$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps)
READY := .venv/ready
WHERE := --corpus $(CORPUS) $(if $(ROOT),--root "$(ROOT)")
FLAGS := $(WHERE) $(if $(VIEWS),--views $(VIEWS)) $(if $(SPEECH_MODEL),--speech-model $(SPEECH_MODEL)) --seed $(SEED)

.DEFAULT_GOAL := help
.PHONY: docs examples help install pretrain paper report corpus test test-slow check lint format contract types lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "Variables: FOLD=1..5 CORPUS=demo|iemocap|emodb|ravdess|crema_d|table ROOT=folder SPEECH_MODEL=name-or-folder VIEWS=\"mel egemaps wav2vec2|hubert|whisper\" SEED=0 FAST=1 ARGS=\"any other flag of pcl\""

install: $(READY) ## the virtual environment, from requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pcl_jax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Give another: make PYTHON=python3.12"; exit 1; }
ifeq ($(UV),)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
else
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
endif
	$(INSTALL) --requirement requirements.lock
	$(INSTALL) --editable .
	@touch $@

pretrain: $(READY) ## pre-train on FOLD, then compare few labels with and without it
	$(BIN)/pcl pretrain $(FLAGS) --fold $(FOLD) --compare $(ARGS)

paper: $(READY) ## every table and figure on CORPUS, and a report; FAST=1 for a tour in minutes
	$(BIN)/python -m experiments.paper $(FLAGS) $(if $(FAST),--fast) $(ARGS)

report: $(READY) ## the report of what has been run
	$(BIN)/python -m experiments.report $(ARGS)

corpus: $(READY) ## count CORPUS and list what is wrong with it
	$(BIN)/pcl corpus $(WHERE) $(ARGS)

examples: $(READY) ## run the examples
	for file in examples/*.py; do echo "# $$file"; $(BIN)/python $$file || exit 1; done

test: $(READY) ## the quick tests; CI runs all
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(READY) ## the slow tests alone: whole runs, killed processes, many sizes
	$(BIN)/python -m pytest -m slow $(ARGS)

check: lint contract types test ## all that must pass before a commit

lint: $(READY) ## ruff and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

format: $(READY) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

contract: $(READY) ## who may import whom
	$(BIN)/lint-imports

types: $(READY) ## pyright
	$(BIN)/basedpyright --level error

docs: $(READY) ## the documentation, docs/_build/html/index.html; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

lock: $(READY) ## renew requirements.lock
	$(INSTALL) uv
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --extra dev --extra docs \
	  --extra av --extra demo --extra onnx \
	  --no-emit-index-url --no-emit-find-links --no-header --output-file requirements.lock pyproject.toml

clean: ## forget the environment and caches; features, runs and the demo stay
	rm -rf .venv docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
