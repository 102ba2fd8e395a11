# Each target first makes the environment that it needs in .venv, and only what has changed since.
# Paths are relative, so that a checkout may lie anywhere, in a folder with spaces too.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check --no-input
# One worker a core: more would blur the tests that measure time.
PYTEST_ARGS ?= -q -n auto
# Besides $(PYTHON): minor versions that `make pythons` tests where they are installed, in PATH or by pyenv.
PYTHONS ?= 3.12 3.13

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two pips in one environment break it
.PHONY: help demo test processes matrix stress hosts browser docs lint typecheck pythons bench mutation proto format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

demo: $(VENV)/.base ## start plugin servers, break them, and watch what the client does
	@$(PY) examples/quickstart/demo.py

test: $(VENV)/.test $(VENV)/.lint ## unit, integration, property and typing tests, and doctests: under four minutes on two cores
	@$(PY) -m pytest $(PYTEST_ARGS)

processes: $(VENV)/.test ## forks, ends of processes, and servers that are killed and restarted
	@$(PY) -m pytest -q -n auto -m processes tests

matrix: $(VENV)/.test ## one cause of failure, one field, one variable after the other, on each transport and engine
	@$(PY) -m pytest -q -n auto -m matrix tests

stress: $(VENV)/.test ## many threads, interrupts anywhere, thousands of calls and of histories
	@HYPOTHESIS_PROFILE=stress $(PY) -m pytest -q -m "stress or not stress" tests/stress
	@$(PY) -m pytest -q -n auto -m stress tests
	@HYPOTHESIS_PROFILE=stress $(PY) -m pytest -q -n auto --timeout 600 tests/property \
		--ignore tests/property/test_reload_properties.py --ignore tests/property/test_config_properties.py

hosts: $(VENV)/.hosts $(VENV)-services/.services ## calls under gunicorn, uWSGI and Celery, of REST services that are not ours, and the examples; needs redis-server and npm
	@$(PY) -m pytest -q -n 2 --dist loadgroup -m hosts tests

browser: $(VENV)/.browser ## the dashboard in headless Chromium; needs the distribution's chromium and chromium-driver
	@$(PY) -m pytest -q -m browser tests/browser

docs: $(VENV)/.test ## check the pages: links, code blocks, doctests, tables; run the code of the how-to pages and the README
	@$(PY) -m pytest -q -n auto -m "docs or not docs" goplugins tests/unit/test_docs.py tests/unit/test_go_mapping.py \
		tests/unit/test_howto_diffs.py tests/integration/test_readme.py tests/integration/test_howto.py

lint: $(VENV)/.test $(VENV)/.lint ## ruff (rules and format), floors of the packages, and that each module imports alone
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@report=$$($(VENV)/bin/lint-imports --no-cache) || { echo "$$report"; exit 1; }
	@$(PY) -W error -m tests.imports

typecheck: $(VENV)/.test $(VENV)/.lint ## mypy (strict) and pyright
	@$(PY) -m mypy
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(PY) -m pyright --pythonpath $(PY)

pythons: $(addsuffix /.test,$(addprefix $(VENV)-,$(PYTHONS))) ## unit and property tests on the other Pythons that are installed
	@for version in $(PYTHONS); do \
		if [ -x $(VENV)-$$version/bin/python ]; then \
			echo "Python $$version"; $(VENV)-$$version/bin/python -m pytest -q -n auto tests/unit tests/property || exit 1; \
		fi; \
	done

bench: $(VENV)/.bench ## measure, about five minutes on an idle machine; writes docs/performance.md's tables and plot
	@$(PY) -m benchmarks --docs

mutation: $(VENV)/.mutation ## break the policies line by line and count what no test notices; an hour
	@nice $(PY) -m tests.mutation

proto: $(VENV)/.test ## compile the .proto files of the gRPC transport
	@$(PY) -m tests.protoc >.descriptors.tmp && mv .descriptors.tmp goplugins/transports/grpc/descriptors.py

format: $(VENV)/.lint ## rewrite the code as lint wants it
	@$(PY) -m ruff check --fix .
	@$(PY) -W ignore -m goplugins._exports >goplugins/__init__.pyi
	@$(PY) -m ruff format .

clean: ## remove the environments and all that was built or cached
	rm -rf $(VENV) $(VENV)-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
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

# Services that tests call, which share no dependency with them. Without npm, the tests of json-server are skipped.
$(VENV)-services/.services: pyproject.toml
	@$(PYTHON) -m venv --clear $(VENV)-services
	@$(VENV)-services/bin/python -m pip --quiet --disable-pip-version-check --no-input install --upgrade 'pip>=25.1'
	@$(VENV)-services/bin/python -m pip --quiet --disable-pip-version-check --no-input install --group services
	@if command -v npm >/dev/null; then \
		npm install --silent --no-audit --no-fund --prefix $(VENV)-services/node json-server@0.17.4; \
	fi
	@touch $@

# An environment for each other version of Python. A pyenv shim that stands for no version in use fails --version.
$(VENV)-%/.test: pyproject.toml
	@for python in python$* $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$*.*/bin/python; do \
		$$python --version >/dev/null 2>&1 || continue; \
		echo "Preparing $(VENV)-$* (once)"; \
		$$python -m venv --clear $(VENV)-$* && \
		$(VENV)-$*/bin/python -m pip --quiet --disable-pip-version-check --no-input install --upgrade 'pip>=25.1' && \
		$(VENV)-$*/bin/python -m pip --quiet --disable-pip-version-check --no-input install --editable . --group test && \
		touch $@; exit; \
	done; echo "Python $* is not installed: skipped"
