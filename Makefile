# make course   environment, the six core notebooks on the default profile, results, runs/quick/index.html
# make test     lint, unit tests, every notebook as a test      make test-all   the same with all that is slow
# make lab      JupyterLab        make bench      benchmarks
# make book     the course as web pages, in build/book
# make colab    the course with the versions that Colab ships      make binder   on one core, in 2 GB
# make notebooks   run the default profile and write its outputs, times and badges into notebooks/ and README.md
#
# An environment is made in .venv where there is none. To use another: make test PY=/path/to/python

PYTHON ?= python3
VENV := .venv
PROFILE ?= quick
UCSD ?= ../shared/oct_samples/ucsd
CHECKED := runs/nbval
CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
export PIP_PROGRESS_BAR ?= off
export JUPYTER_PREFER_ENV_PATH ?= 1
export PYDEVD_DISABLE_FILE_VALIDATION ?= 1
# notebooks import this package wherever their kernel starts
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

ifeq ($(origin PY),undefined)
PY := $(VENV)/bin/python
ENVIRONMENT := $(VENV)/installed
endif

.PHONY: course test test-all lint unit nbval real lab bench notebooks book colab binder clean
.DELETE_ON_ERROR:

course: $(ENVIRONMENT)
	$(PY) -m kdoct_utils.course.cli check --profile $(PROFILE) --run-dir runs
	$(PY) -m kdoct_utils.course.cli run --profile $(PROFILE) --run-dir runs/$(PROFILE)

test: lint unit nbval

# Browsers, clusters, longer fuzzing, the quick course and real scans too.
test-all: lint nbval
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=thorough $(PY) -m pytest -n $(CORES) tests
	$(MAKE) course
	test ! -d $(UCSD) || $(MAKE) real

lint: $(ENVIRONMENT)
	$(PY) -m ruff check .
	$(PY) -c "from importlinter.cli import lint_imports_command as lint; lint()"

unit: $(ENVIRONMENT)  # a process a core, one thread each
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(CORES) -m "not slow" tests

# Every cell of every notebook runs once, with the smallest profile, and every slider is moved to its ends.
# One run folder serves them all: what one notebook has made, the next takes.
nbval: $(ENVIRONMENT)
	rm -rf $(CHECKED)
	$(PY) tests/prepare_notebooks.py $(CHECKED)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(CORES) --dist loadfile --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=600 -p no:cacheprovider $(CHECKED)

# Every notebook on a folder of real UCSD scans, with the smallest profile.
real: $(ENVIRONMENT)
	$(PY) -m kdoct_utils.course.cli run --profile smoke --dataset ucsd --data-root $(UCSD) --run-dir runs/smoke-ucsd
	$(PY) -m kdoct_utils.course.cli run --profile smoke --dataset ucsd --data-root $(UCSD) --run-dir runs/smoke-ucsd --only more

lab: $(ENVIRONMENT)  # serves runs/ too: notebook 06 shows a page of the run folder
	$(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks

bench: $(ENVIRONMENT)
	KDOCT_BENCH_WRITE=1 $(PY) -m pytest -o addopts= -s tests/benchmarks

notebooks: $(ENVIRONMENT)
	$(PY) -m kdoct_utils.course.cli run --profile quick --run-dir runs/quick
	$(PY) -m kdoct_utils.course.cli run --profile quick --run-dir runs/quick --only more
	$(PY) -m tools.publish runs/quick

book: $(ENVIRONMENT)
	$(PY) book/build.py build/book

# Every notebook, with the smallest profile and the versions that Colab ships (an environment of its own: 7 GB).
colab:
	$(PYTHON) tests/colab/run.py build/colab

# Every notebook on one core, and with at most 2 GB for all its processes.
binder: $(ENVIRONMENT)
	$(PY) tests/binder/run.py $(PROFILE) runs/binder-$(PROFILE)

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the course needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): several minutes the first time, with torch"
	$(VENV)/bin/python -m pip install -qq --editable ".[test,lab,sweep,book,browser,binder]"
	touch $@

clean:
	rm -rf $(CHECKED) build .pytest_cache .ruff_cache .hypothesis
