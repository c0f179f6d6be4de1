# Every target sets itself up: a virtual environment in .venv from constraints.txt (4 minutes, 8 GB, once).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo test fast test-all lint bench clean
setup: $(READY)

$(READY): setup.py constraints.txt $(wildcard csrc/*.cpp csrc/*.h csrc/*.py)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unity-video needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: setup ## the main job: make data, train both stages, infer, report (runs/demo/report.html)
	python launchers/demo.py

test: setup ## what CI runs: both at once
	@$(MAKE) --no-print-directory -j2 lint fast

# a thread each: two that compute at once otherwise wait for each other's threads
fast: setup
	OMP_NUM_THREADS=1 python -m pytest -n 2 -m 'not slow'

test-all: setup lint ## the slow proofs too
	python -m pytest

lint: setup
	ruff check .
	ruff format --check .
	basedpyright

bench: setup
	python benchmarks/kernel_bench.py

clean:
	rm -rf .venv build *.egg-info
