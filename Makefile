# Every target sets up .venv by itself. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PYTEST_ARGS ?=
WORKERS ?= 2
BENCH ?=
REGISTRY ?=
RELEASE ?=
export HF_HUB_OFFLINE := 1
export DO_NOT_TRACK := 1
export GX_ANALYTICS_ENABLED := False
export MLFLOW_DISABLE_TELEMETRY := true
export FEAST_USAGE := False

.DEFAULT_GOAL := help
.PHONY: help demo demo-drift test lint types bench model compile docs clean setup wheels image release kubernetes

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with everything pinned

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 is needed, found " + sys.version.split()[0] + "; install it or pass PYTHON=/path/to/python3.11") if sys.version_info[:2] != (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

demo: $(STAMP) ## Run the main job on a simulated network (about twelve minutes on two cores)
	$(BIN)/brewhouse demo --out runs/demo

demo-drift: $(STAMP) ## Plant drift in a simulated network, watch it, retrain once (about ten minutes)
	$(BIN)/brewhouse demo-drift --out runs/demo-drift

test: $(STAMP) ## Run all tests (in as many processes as WORKERS says, two by default)
	$(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(STAMP) types ## Style, imports, types, direction of dependencies
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP) ## Check types, through a view in which the mapped packages lie side by side
	@rm -rf build/types && mkdir -p build/types && cp -rs $(CURDIR)/src/brewhouse build/types/brewhouse
	@for part in components models pipelines monitoring; do cp -rs $(CURDIR)/$$part build/types/brewhouse/$$part; done
	cd build/types && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p brewhouse

bench: $(STAMP) ## Measure beside what a user would pick instead (about half an hour)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/run.py $(BENCH)

model: $(STAMP) ## Rebuild models/linkedin-tiny and its figures (about an hour on one core)
	$(BIN)/brewhouse pretrain linkedin-tiny

compile: $(STAMP) ## Compile the pipelines to the YAML beside their source
	for p in train_and_evaluate studies promote monitor; do $(BIN)/brewhouse pipeline compile $$p --out pipelines/$$p/$$p.yaml; done

docs: $(STAMP) ## Write what is generated: components' READMEs, alerts as an object, table of rights
	$(BIN)/python tools/component_readmes.py
	$(BIN)/python tools/alert_rules.py
	$(BIN)/python tools/access_table.py

wheels: $(STAMP) ## Gather the wheels that images are built from
	rm -rf build/wheels/steps
	$(BIN)/python -m pip wheel --quiet --wheel-dir build/wheels/steps --constraint constraints.txt torch==2.13.0 '.[all,s3,gcs]'
	@# Pip builds in the tree; what it leaves would be packed again.
	rm -rf build/lib build/bdist.*

image: wheels ## Build the image of the steps; BASE=local makes a base from Debian's packages
	tools/image.sh steps

kubernetes: ## Build Kubernetes from Debian's source, for tests on a node of their own
	tools/kubernetes.sh

release: $(STAMP) ## Build a release: REGISTRY=host/path, RELEASE='--push --sign'
	@test -n "$(REGISTRY)" || { echo "set REGISTRY=host/path, where images will be" >&2; exit 2; }
	$(BIN)/python tools/release.py --registry $(REGISTRY) $(RELEASE)

clean: ## Remove what was built; runs/ and .venv stay
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
