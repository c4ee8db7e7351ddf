# make demo: the whole way on real data, in a minute. make test: lint, types, tests. make bench: the presets' figures.
# make test-all: make test, what a chosen share stands for in it (golden cases on cores, Triton's kernels at their sizes), make docs.
# make test-machines: the tests as other x86 processors would run them, older ones and one with more threads.
# make proof: Frama-C on every golden header, in minutes.
# make results: the pages' tables, from the rows of the studies. make docs: the pages as a site, in build/docs.
# Each sets up its own virtual environment in .venv; nothing outside this folder changes but the caches of pip and of compilers.

PYTHON ?= python3
BIN := .venv/bin
FACE := $(wildcard quantal/*.py quantal/py.typed)
DEMO ?= build/demo
DATA ?= data
SUITE := $(BIN)/python -m pytest -n 2 --durations 10
# What torch, its libraries and the compiled engine may take to be there.
BASIC := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Prescott \
  QUANTAL_TARGET=x86-64
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell QUANTAL_TARGET=x86-64-v3

.PHONY: demo test test-all test-machines proof frama-c bench results docs golden format clean

demo: .venv/ready-verify
	rm -rf $(DEMO)
	$(BIN)/quantal demo --out $(DEMO)

test-all: SUITE += -m 'not proof'
test-all: docs
test test-all: .venv/ready-dev build/names frama-c
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(SUITE)

test-machines: .venv/ready-dev frama-c
	$(SUITE)
	env $(BASIC) $(SUITE)
	env $(AVX2) $(SUITE)
	env OMP_NUM_THREADS=4 $(SUITE)

proof: .venv/ready-dev frama-c
	@command -v frama-c >/dev/null
	$(BIN)/python -m pytest -n 2 --durations 10 -m '' tests/proof/test_frama_c.py

# As root with apt it is installed. Elsewhere `make test` goes on, and says which tests were skipped without it.
frama-c:
	@command -v frama-c >/dev/null && command -v cppcheck >/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q && apt-get install -qy --no-install-recommends frama-c-base cppcheck; \
	  else echo "frama-c or cppcheck is missing; install your system's frama-c-base and cppcheck"; fi

bench: .venv/ready-verify
	$(BIN)/python benchmarks/presets.py --data $(DATA) --out build/bench

results: .venv/ready-dev
	$(BIN)/python docs/fill.py

# A warning ends it.
docs: .venv/ready-docs
	rm -rf build/docs
	$(BIN)/python -m sphinx -qW --keep-going -d build/doctrees docs build/docs

# A golden file changes only by this command and a sentence of why in the commit.
golden: .venv/ready-dev
	$(BIN)/python golden/regenerate.py --write

format: .venv/ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build .venv

# The rooms under the name that they are installed by, for tools that read source: mypy here, and editors.
build/names: $(FACE)
	mkdir -p $@/quantal
	ln -sfn $(addprefix ../../../,qat export templates $(FACE)) $@/quantal/
	@touch $@

.venv/ready-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "quantal needs Python 3.11 or later; name it with: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -qy python3-venv; \
	  else echo "Python has no venv module here; install your system's python3-venv package"; exit 2; fi; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
