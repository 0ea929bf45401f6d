PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PHOTOS ?= ../shared/data/train
VALIDATION ?= ../shared/data/validation
DATA ?= ../shared/data/kodak
# every processor has a worker, so BLAS and Numba get one thread in each
PYTEST = OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
BACKBONE ?= $(wildcard ../shared/data/perceptual/alexnet_features.pth)
FEATURES ?= ../shared/data/perceptual
CONFIG ?= two-layer

.PHONY: help demo test coverage lint train realism bench figures cli-docs golden golden-pyramid clean

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e . 'scikit-image>=0.22'
	@touch $@

$(VENV)/.all: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --no-compile -e '.[all]'  # what is imported is compiled then
	@touch $@

demo: $(VENV)/.demo  ## Install, then encode and decode a real photograph.
	$(BIN)/python benchmarks/demo.py

test: $(VENV)/.all  ## Install everything and run the tests.
	$(PYTEST)

coverage: $(VENV)/.all  ## Run the tests and list the lines that none of them reaches.
	$(PYTEST) --cov=nicc --cov-report=term-missing:skip-covered

lint: $(VENV)/.all  ## Check style, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

train: $(VENV)/.all  ## Train CONFIG on PHOTOS (see docs/training.md).
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000 \
	$(BIN)/nicc train $(CONFIG) --data $(PHOTOS) --validation $(VALIDATION) --resume --export models/$(CONFIG)

realism: $(VENV)/.all  ## Train the default model's realism head on PHOTOS.
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000 \
	$(BIN)/nicc train realism --data $(PHOTOS) --validation $(VALIDATION) --perceptual $(FEATURES) --resume --export models/two-layer

bench: $(VENV)/.all  ## Measure codecs side by side over the images in DATA.
	$(BIN)/nicc bench $(DATA) -o runs/bench --codec 'nicc-two-layer*,nicc-jpeg-like,jpeg,webp,avif-444,avif-444-best' --anchor avif-444 $(if $(BACKBONE),--lpips-backbone $(BACKBONE))

figures: $(VENV)/.all  ## Measure on the Kodak images in DATA and write every table and plot of the documents anew.
	$(BIN)/python -m benchmarks.figures measure $(DATA) runs/figures \
		$(if $(VALIDATION),--validation $(VALIDATION)) $(if $(BACKBONE),--lpips-backbone $(BACKBONE))
	$(BIN)/python -m benchmarks.figures write runs/figures

cli-docs: $(VENV)/.all  ## Write docs/cli.md anew, after a change of the command line.
	$(BIN)/typer --app app nicc.cli utils docs --name nicc --title 'The command line' > docs/cli.md

golden: $(VENV)/.all  ## Write the golden files and pinned figures of MODEL anew, after new weights.
	$(BIN)/python -m tests.golden.make $(MODEL)
	$(BIN)/python -m tests.pinned.make $(MODEL)

golden-pyramid: $(VENV)/.all  ## Write the golden files of the pyramid anew, after new starts.
	$(BIN)/python -m tests.pyramid.make_golden

clean:  ## Remove what was built and cached.
	rm -rf $(VENV) .cache build dist .pytest_cache .ruff_cache .mypy_cache
