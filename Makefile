# The four commands. They need make and Python (3.11, 3.12 or 3.13) alone: everything else goes into .venv.
#   make run     set up, and serve the demo table        PORT=9000  EXTRAS= (the light base install)  ARGS="gates.py:f"
#   make test    set up, and run the whole suite         ARGS="tests/core -k signature"
#   make lint    formatting, lint, types, layers, sizes, generated pages
#   make bench   requests per second and CPU, next to the floor   ARGS="--help"

EXTRAS ?= full
TESTERS ?= 2
PYTHON ?= $(shell for python in python3.11 python3.13 python3.12 python3 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: run test lint bench clean

run: $(INSTALLED)-$(or $(EXTRAS),base)
	@exec $(BIN)/hansang serve $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(INSTALLED)-dev
	@$(BIN)/python -m pytest -n $(TESTERS) $(ARGS)

lint: $(INSTALLED)-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/size
	$(BIN)/python scripts/docs --check

bench: $(INSTALLED)-dev
	@$(BIN)/python bench/run.py $(ARGS)

clean:
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# A stamp file says that these extras are installed as pyproject.toml has them now; a second call does nothing.
$(INSTALLED)-%: pyproject.toml constraints.txt scripts/install | $(BIN)/python
	@scripts/install $(BIN)/python $(filter-out base,$*)
	@touch $@ $(if $(filter dev,$*),$(INSTALLED)-full $(INSTALLED)-base)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "hansang needs Python 3.11, 3.12 or 3.13. Say which: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Making .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv
