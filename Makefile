# Bare `make` prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
SCALE ?= quick
SEEDS ?=
RESULTS ?= results
LAUNCHER ?= packed
ARGS ?=

# Tests end where a worker dies: with another in its place they can hang.
WORKERS := --dist loadgroup --max-worker-restart 0 -n

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.reltrust-$(shell cat requirements.lock pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)

help: ## print this list
	@for readme in experiments/*/README.md; do
	  name=$$(basename $$(dirname $$readme)); echo -e "reproduce-$${name//_/-}\t$$(head -1 $$readme | cut -c3-)"
	done | expand -t 34
	grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 34
	echo "Variables: SCALE=smoke|quick|paper SEEDS=n RESULTS=folder LAUNCHER=packed|processes|serial|slurm|ray ARGS='hydra overrides'"

setup: $(STAMP) ## make .venv from requirements.lock; a second call costs nothing

$(STAMP):
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	f"reltrust needs Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}; name another: make PYTHON=python3.12")'
	echo "setting up $(VENV) from requirements.lock (several GB with torch; minutes on a slow network)"
	test -x "$(PY)" || "$(PYTHON)" -m venv $(VENV)
	"$(PY)" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r <(sed -n '/^uv==/,/[^\\]$$/p' requirements.lock)
	$(VENV)/bin/uv pip install --quiet --require-hashes --no-deps --python "$(PY)" -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation --python "$(PY)" --editable .
	rm -f $(VENV)/.reltrust-*
	touch $@

reproduce-%: setup
	@status=0
	experiment=$(subst -,_,$*)
	"$(PY)" -m reltrust sweep=$$experiment "scale=$(SCALE)" $(if $(SEEDS),"seed=range($(SEEDS))") "launcher=$(LAUNCHER)" "machine.results='$(RESULTS)'" $(ARGS) || status=$$?
	if [[ $$status == [013] && -z "$(findstring dry_run=true,$(ARGS))" && -f experiments/$$experiment/figure.py && -d "$(RESULTS)" ]]; then
	  "$(PY)" scripts/figures.py $$experiment --results "$(RESULTS)" --scale "$(SCALE)"
	fi
	exit $$status

figures: ## redraw every figure from results/summaries alone (needs no torch)
	@[[ -z "$(filter report,$(MAKECMDGOALS))" ]] || exit 0 # the report draws them too
	if [ ! -x "$(PY)" ] && "$(PYTHON)" -c 'import pandas, matplotlib' 2>/dev/null; then
	  "$(PYTHON)" scripts/figures.py --results "$(RESULTS)"
	else
	  $(MAKE) --no-print-directory setup
	  "$(PY)" scripts/figures.py --results "$(RESULTS)"
	fi

report: ## the same, and everything on one page, results/report/index.html: claims, figures, tables, deviations (needs no torch)
	@if [ ! -x "$(PY)" ] && "$(PYTHON)" -c 'import pandas, matplotlib, jinja2, markdown_it' 2>/dev/null; then
	  "$(PYTHON)" scripts/report.py --results "$(RESULTS)"
	else
	  $(MAKE) --no-print-directory setup
	  "$(PY)" scripts/report.py --results "$(RESULTS)"
	fi

status: setup ## what has run, what runs, what failed; ARGS=--watch, or the settings of a sweep for what is missing
	@"$(PY)" scripts/status.py --results "$(RESULTS)" $(ARGS)

test: setup ## all tests but those that wait for clusters and faults
	@"$(PY)" -m pytest $(WORKERS) 2 --ignore=tests/clusters --ignore=tests/faults $(ARGS)

test-clusters: setup ## SLURM's (where scripts/local_slurm.sh has started one) and Ray's
	@"$(PY)" -m pytest $(WORKERS) 2 tests/clusters $(ARGS)

faults: setup ## kill, stop, starve and damage sweeps, and print what was lost (FULL=1: many more times)
	@FAULTS=$(if $(FULL),full,$(or $(FAULTS),usual)) "$(PY)" -m pytest $(WORKERS) 4 tests/faults $(ARGS)

gpu-check: setup ## on a machine with a GPU: tests, kernels, packs and the large model, and what to commit (docs/gpu.md)
	@"$(PY)" scripts/gpu_check.py $(ARGS)

lint: setup ## format, lint and types, as CI checks them
	@$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: setup ## put the code into the project's format
	@$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

lock: setup ## renew requirements.lock from pyproject.toml
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra dev --upgrade pyproject.toml --output-file requirements.lock

wheel: setup ## build the package, dist/reltrust-<version>-py3-none-any.whl
	@rm -rf dist
	"$(PY)" -m hatchling build --target wheel --directory dist

api: setup ## the docstrings as pages, docs/api/index.html
	@"$(PY)" -m pdoc --docformat google --output-directory docs/api reltrust '!reltrust.__main__' '!reltrust.experiments'

benchmark: setup ## time training steps, the optimizers and packed runs against their peers
	@"$(PY)" benchmarks/training_step.py
	"$(PY)" benchmarks/optimizers.py
	"$(PY)" benchmarks/packing.py
	"$(PY)" benchmarks/transformer_lm.py
	"$(PY)" benchmarks/cifar_gan.py
	"$(PY)" benchmarks/grouped_convolutions.py
	"$(PY)" benchmarks/theory.py
	"$(PY)" benchmarks/mlp_curvature.py
	"$(PY)" benchmarks/nystrom.py
	"$(PY)" benchmarks/learned_optimizers.py
	"$(PY)" benchmarks/reporting.py

.PHONY: help setup figures report status test test-clusters faults gpu-check lint format lock wheel api benchmark
