# Each target first makes the environment that it needs in .venv, and only what has changed since.
# Paths are relative, so that a checkout may lie anywhere, in a folder with spaces too.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check --no-input
# One worker a core: more would blur the tests that measure time.
PYTEST_ARGS ?= -q -n auto

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two pips in one environment break it
.PHONY: help demo test stress hosts browser lint typecheck bench mutation docs format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

demo: $(VENV)/.base ## start plugin servers, break them, and watch what the client does
	@$(PY) examples/quickstart/demo.py

test: $(VENV)/.test $(VENV)/.lint ## unit, integration, typing and property tests, and the doctests
	@$(PY) -m pytest $(PYTEST_ARGS)

stress: $(VENV)/.test ## the policies with many threads, interrupts and thousands of histories; a few minutes
	@HYPOTHESIS_PROFILE=stress $(PY) -m pytest -q tests/stress
	@HYPOTHESIS_PROFILE=stress $(PY) -m pytest -q -n auto --timeout 600 tests/property \
		--ignore tests/property/test_reload_properties.py --ignore tests/property/test_config_properties.py

browser: $(VENV)/.browser ## the dashboard in headless Chromium; needs the distribution's chromium and chromium-driver
	@$(PY) -m pytest -q -m browser tests/browser

hosts: $(VENV)/.hosts ## thousands of calls under gunicorn, uWSGI and Celery; minutes, and it needs redis-server
	@$(PY) -m pytest -q -n 2 --dist loadgroup -m hosts tests/hosts tests/integration/contrib

lint: $(VENV)/.lint ## ruff: rules and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/lint-imports --no-cache >.lint-imports.log || { cat .lint-imports.log; exit 1; }

typecheck: $(VENV)/.test $(VENV)/.lint ## mypy (strict) and pyright
	@$(PY) -m mypy
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(PY) -m pyright --pythonpath $(PY)

bench: $(VENV)/.bench ## measure, about five minutes on an idle machine; writes docs/performance.md's tables and plot
	@$(PY) -m benchmarks --docs

mutation: $(VENV)/.mutation ## break the policies line by line and count what no test notices; an hour
	@nice $(PY) -m tests.mutation

docs: $(VENV)/.test ## check the pages: links, code blocks, doctests, the README's example, the table of Go names
	@$(PY) -m pytest -q tests/unit/test_docs.py tests/unit/test_go_mapping.py tests/integration/test_readme.py goplugins

format: $(VENV)/.lint ## rewrite the code as lint wants it
	@$(PY) -m ruff check --fix .
	@$(PY) -W ignore -m goplugins._exports >goplugins/__init__.pyi
	@$(PY) -m ruff format .

clean: ## remove the environment and all that was built or cached
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment -------------------------------------------------------------------------------------------
# The stamps are written last, so that an interrupted step is done again.

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Preparing $(VENV) (once)"
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ rm -rf $(VENV); echo "No environment could be made; on Debian: apt-get install python3-venv" >&2; exit 1; }

# --group, which installs pyproject.toml's dependency groups, came with pip 25.1.
$(VENV)/.pip: $(PY)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.base: $(VENV)/.pip pyproject.toml
	@$(PIP) install --editable '.[serve,yaml]'
	@touch $@

$(VENV)/.test: $(VENV)/.base
	@$(PIP) install --group test
	@touch $@

$(VENV)/.browser: $(VENV)/.base
	@$(PIP) install --group browser
	@touch $@

$(VENV)/.hosts: $(VENV)/.base
	@$(PIP) install --group hosts
	@touch $@

$(VENV)/.bench: $(VENV)/.base
	@$(PIP) install --group bench
	@touch $@

$(VENV)/.mutation: $(VENV)/.base
	@$(PIP) install --group mutation
	@touch $@

$(VENV)/.lint: $(VENV)/.base
	@$(PIP) install --group lint
	@touch $@
