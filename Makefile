# Every target sets up what it needs: a virtual environment (VENV) and, for the tests, system libraries.
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
SETUP := scripts/setup.sh
export PYTHON CONSTRAINTS TORCH TORCH_INDEX

.DEFAULT_GOAL := help
.PHONY: help demo test headless lowest lint types contracts manifest docs bench screenshots clean

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

demo: ## segment a real radiograph and a stack with known truth; no display needed
	@$(SETUP) $(VENV)
	@$(BIN)/zeroseg demo $(ARGS)

test: ## run the tests
	@$(SETUP) --display $(VENV) test
	@$(BIN)/python -m pytest $(ARGS)

headless: ## run the tests that need no window, with napari and Qt hidden from Python
	@$(SETUP) $(VENV) test
	@ZEROSEG_WITHOUT_NAPARI=1 $(BIN)/python -m pytest -p no:napari -p no:pytest-qt -m "not packaging" $(ARGS)

lowest: ## run the tests with the oldest versions of the dependencies (except torch)
	@$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints/lowest.txt TORCH=torch==2.13.0

lint: ## check style
	@$(SETUP) $(VENV) lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: ## check types
	@$(SETUP) $(VENV) lint
	$(BIN)/mypy

contracts: ## check who imports whom
	@$(SETUP) $(VENV) lint
	$(BIN)/lint-imports

manifest: ## check napari.yaml against the code behind it
	@$(SETUP) $(VENV)
	$(BIN)/npe2 validate napari-zeroseg

docs: ## build the documentation into docs/_build/html
	@$(SETUP) $(VENV) docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

bench: ## measure the figures of docs/benchmarks.md
	@$(SETUP) --display $(VENV) test
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python scripts/with_display.py $$script $(ARGS) || exit 1; done

screenshots: ## make the pictures of the documentation
	@$(SETUP) --display $(VENV) test
	$(BIN)/python scripts/with_display.py docs/screenshots.py $(ARGS)
	$(BIN)/python scripts/with_display.py docs/screenshots_toys.py
	$(BIN)/python scripts/with_display.py docs/screenshots_training.py
	$(BIN)/python scripts/with_display.py docs/screenshots_stack.py

clean: ## remove environments, caches and what was built
	rm -rf .venv .venv-ci .venv-lowest build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -f .coverage .coverage.* src/napari_zeroseg/napari.yaml
	find src tests docs benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
