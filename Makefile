# `make demo` and `make test` each go from a bare macOS (Apple silicon) or Linux machine to a result.
# Variables: PYTHON=python3.12 picks the interpreter, EXTRAS=test,cuda what is installed,
# ARGS="tests/ops -x" what pytest gets, WORKERS=1 how many processes run tests (default: 2 to 4,
# as there are cores).

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SITE_STAMP := $(VENV)/.site
TYPED := build/typed

# On Linux mlx has no backend of its own, so one is installed beside it.
EXTRAS ?= $(shell [ "$$(uname -s)" = Linux ] && echo cpu,test || echo test)
ARGS ?=
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
WORKERS ?= $(shell [ $(CORES) -lt 2 ] && echo 1 || { [ $(CORES) -gt 4 ] && echo 4 || echo $(CORES); })

# A pyenv shim exists for every version pyenv has and fails for those that are not selected, so a
# candidate counts only when it runs, is recent enough, can make an environment with pip, and is
# not an Intel build under Rosetta (mlx has no wheels for those).
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3.10 python3.14 python3 python)
USABLE := import sys, platform, venv, ensurepip; \
sys.exit(sys.version_info < (3, 10) or (sys.platform, platform.machine()) == ("darwin", "x86_64"))

# OpenBLAS 0.3.21 takes a CPU newer than itself for a Prescott of 2004: five times slower.
WITH_OPENBLAS = blas=$$($(MAKE) -s --no-print-directory openblas); \
	if [ -n "$$blas" ]; then \
	    export LD_PRELOAD="$$blas$${LD_PRELOAD:+:$$LD_PRELOAD}"; \
	    if OPENBLAS_VERBOSE=2 /bin/sh -c : 2>&1 | grep -q Prescott; then \
	        if grep -q avx512dq /proc/cpuinfo; then export OPENBLAS_CORETYPE=SKYLAKEX; \
	        elif grep -q avx2 /proc/cpuinfo; then export OPENBLAS_CORETYPE=HASWELL; fi; \
	    fi; \
	fi

.PHONY: help demo install test test-all lint docs openblas clean

help:
	@echo "make demo      set up .venv if needed and find blood cells in three photos"
	@echo "make test      set up .venv if needed and run the tests (ARGS=... goes to pytest)"
	@echo "make test-all  the same with the slow tests"
	@echo "make lint      ruff and mypy"
	@echo "make docs      build the site into build/site, warnings as errors"
	@echo "make openblas  print the OpenBLAS library the tests preload on Linux, if there is one"
	@echo "make clean     remove .venv, caches and build output"

install: $(STAMP)

demo: $(STAMP)
	@$(WITH_OPENBLAS); \
	$(BIN)/mlx_rcnn predict examples/blood_cells --model examples/blood_cells/model \
	    --out demo_output

test: $(STAMP)
	@$(WITH_OPENBLAS); \
	[ "$$(uname -s)" != Linux ] || echo "OpenBLAS: $${blas:-not found, convolutions will be slow (Debian: apt-get install libopenblas0-pthread)} $$OPENBLAS_CORETYPE"; \
	[ $(WORKERS) = 1 ] || export OPENBLAS_NUM_THREADS=1; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-all: override ARGS := -m "" $(ARGS)
test-all: test

# convert/ installs as mlx_rcnn.convert; mypy sees the package that way round only in a copy.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf $(TYPED) && mkdir -p $(TYPED)
	@cp -Rp mlx_rcnn $(TYPED)/ && cp -Rp convert $(TYPED)/mlx_rcnn/
	cd $(TYPED) && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" \
	    --cache-dir "$(CURDIR)/.mypy_cache" -p mlx_rcnn

# Not --quiet: MkDocs then does not count the warnings that --strict is to fail on.
docs: $(SITE_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html"

# The threaded builds first; a library counts only when the loader takes it without a word.
openblas:
	@[ "$$(uname -s)" = Linux ] || exit 0; \
	PATH="$$PATH:/sbin:/usr/sbin"; \
	for lib in /usr/lib/*/openblas-pthread/libopenblas.so.0 /usr/lib*/libopenblasp.so.0 \
	    $$(ldconfig -p 2>/dev/null | sed -n 's/.*libopenblasp*\.so\.0 .*=> //p') \
	    /usr/lib*/libopenblas.so.0 /usr/lib/*/libopenblas.so.0 /usr/local/lib/libopenblas.so.0; do \
	    if [ -e "$$lib" ] && [ -z "$$(LD_PRELOAD="$$lib" /bin/sh -c : 2>&1)" ]; then \
	        echo "$$lib"; exit 0; \
	    fi; \
	done

$(BIN)/python:
	@for python in $(CANDIDATES); do \
	    if $$python -c '$(USABLE)' >/dev/null 2>&1; then \
	        echo "$(VENV): $$($$python --version), $$python"; \
	        $$python -m venv --clear $(VENV) && exit 0; \
	    fi; \
	done; \
	rm -rf $(VENV); \
	echo "No usable Python. Needed: 3.10 or later with the venv and ensurepip modules (on a Mac an" >&2; \
	echo "arm64 build). Tried: $(CANDIDATES)." >&2; \
	echo "Debian and Ubuntu: apt-get install python3-venv. macOS: brew install python@3.13." >&2; \
	echo "Then run make again, or name an interpreter: make test PYTHON=/path/to/python3" >&2; \
	exit 1

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

$(SITE_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]' || { \
	    echo "make docs: MkDocs is not installed and cannot be fetched; once it is, building the" >&2; \
	    echo "site needs no connection" >&2; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find mlx_rcnn convert tests -name __pycache__ -type d -prune -exec rm -rf {} +
