# Needs Python 3.11 with venv, and PyPI. `make demo` is the place to start.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
DELIVERY_VENV := .venv-delivery
DATASETS3_VENV := .venv-datasets3
REFERENCE_VENV ?= .venv-reference
# Or paddlepaddle-gpu, with PIP_EXTRA_INDEX_URL set to PaddlePaddle's own index.
PADDLE ?= paddlepaddle
CLIPS ?=
PORT ?= 3000

export EGO_DATA_DIR ?= $(CURDIR)/ego_data

.PHONY: help setup setup-reference demo ui test test-faults test-delivery test-reference lint check benchmarks clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(STAMP) ## Make the environment in .venv, unless it is up to date.

$(STAMP): pyproject.toml constraints/local.txt tools/setup_environment.py tools/make_environment.py
	@$(PYTHON) tools/setup_environment.py --venv $(VENV) --extras local,dev --constraints constraints/local.txt \
		--size-gb 2.5 --download-gb 0.7
	@touch $@

setup-reference: $(REFERENCE_VENV)/.setup ## Make the environment of the reference models in .venv-reference: 9 GB.

# SAM 2 is built from its source, with the PyTorch that is there: left to itself pip would fetch a second one. Its CUDA
# extension is not used. No extra brings PaddlePaddle, because machines with a GPU need another package of it.
$(REFERENCE_VENV)/.setup: pyproject.toml constraints/reference.txt tools/setup_environment.py tools/make_environment.py
	@SAM2_BUILD_CUDA=0 $(PYTHON) tools/setup_environment.py --venv $(REFERENCE_VENV) --extras reference,dev \
		--constraints constraints/reference.txt --also $(PADDLE) --size-gb 8.8 --download-gb 2.7 \
		--build-with torch,torchvision,numpy,setuptools,wheel,hatchling,editables
	@touch $@

demo: $(STAMP) ## Process three synthetic clips, or copies of your own with CLIPS=folder.
	@$(BIN)/ego-assets demo $(if $(CLIPS),--clips "$(CLIPS)")

ui: $(STAMP) ## Open the Dagster UI on the same data (PORT=3000).
	@$(BIN)/ego-assets ui --port $(PORT)

test: $(STAMP) ## Run the test suite on the CPU.
	@$(BIN)/python -m pytest -n auto --ignore ego_assets_tests/e2e $(PYTEST_ARGS)
	@$(BIN)/python -m pytest ego_assets_tests/e2e $(PYTEST_ARGS)

test-faults: $(STAMP) ## Interrupt the work in every way and see that nothing is lost: minutes.
	@EGO_TEST_FAULTS=1 $(BIN)/python -m pytest ego_assets_tests/faults $(PYTEST_ARGS)

test-delivery: $(STAMP) $(DELIVERY_VENV)/.setup $(DATASETS3_VENV)/.setup ## Open a delivery with the packages of its consumers.
	@EGO_TEST_DELIVERY=1 EGO_DELIVERY_PYTHON=$(DELIVERY_VENV)/bin/python \
		EGO_DATASETS3_PYTHON=$(DATASETS3_VENV)/bin/python \
		$(BIN)/python -m pytest ego_assets_tests/consumers $(PYTEST_ARGS)

test-reference: $(REFERENCE_VENV)/.setup ## Run the reference models with small checkpoints, on the CPU: minutes.
	@EGO_TEST_REFERENCE=1 OMP_NUM_THREADS=1 $(REFERENCE_VENV)/bin/python -m pytest -n auto --dist loadfile \
		ego_assets_tests/reference ego_assets_tests/unit/models $(PYTEST_ARGS)

$(DELIVERY_VENV)/.setup: constraints/delivery.txt tools/make_environment.py
	@$(PYTHON) tools/make_environment.py --venv $(DELIVERY_VENV) --constraints constraints/delivery.txt \
		--size-gb 9 --download-gb 4.4 \
		lerobot==0.4.4 "datasets>=4" webdataset h5py torch pandas pillow pyarrow
	@touch $@

$(DATASETS3_VENV)/.setup: constraints/datasets3.txt tools/make_environment.py
	@$(PYTHON) tools/make_environment.py --venv $(DATASETS3_VENV) --constraints constraints/datasets3.txt \
		--size-gb 0.5 --download-gb 0.2 \
		"datasets==3.6.*" pillow
	@touch $@

lint: $(STAMP) ## Style and types.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

check: lint test test-faults ## Style, types, the tests and the faults.

benchmarks: $(STAMP) ## Run every benchmark with its quick settings.
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python "$$file" --quick; done

clean: ## Remove the environments and the caches; the data stays.
	rm -rf $(VENV) $(DELIVERY_VENV) $(DATASETS3_VENV) $(REFERENCE_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
