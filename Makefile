# Everything a developer runs. `make demo` and `make test` install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests at a time, a gigabyte of memory each: more than there are processors, for many of them mostly wait.
JOBS ?= $(shell nproc | awk '{ jobs = int($$1 * 1.5); print jobs < 8 ? jobs : 8 }')
export NEXTCLICK_ARTIFACTS_DIR ?= artifacts

.PHONY: demo test check bench client clean help

help:
	@echo "make demo    a shop's clicks, a trained model, a running service: http://127.0.0.1:8000, metrics on port 9464"
	@echo "make test    every test, $(JOBS) at a time (JOBS=…)"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make bench   speed and load measurements (see benchmarks/README.md)"
	@echo "make client  a typed Python client of this version, in build/client, tried over HTTP"
	@echo "make clean   remove .venv and caches; artifacts/ stays"
	@echo
	@echo "All else is the nextclick command's: . $(BIN)/activate && nextclick --help"

# One stamp per set of extras: installing is skipped until pyproject.toml or a pin changes.
$(VENV)/demo.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), f"Python 3.11 to 3.13 is needed, this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[console,embedded,train]"
	touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[console,embedded,train,dev]"
	touch $@

demo: $(VENV)/demo.stamp
	@exec $(BIN)/nextclick demo

test: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.load --closed 16 --yardsticks

# The generator has an environment of its own: it needs other versions than we do.
client: $(VENV)/dev.stamp
	test -x build/client/venv/bin/openapi-python-client || \
	  { $(PYTHON) -m venv build/client/venv && build/client/venv/bin/pip install --quiet openapi-python-client==0.29.1; }
	PYTHONPATH=. $(BIN)/python clients/python/make.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
