# make demo: the whole way on real data, in a minute. make test: lint, types, tests. make bench: the README's figures.
# make proof: Frama-C on every golden header, in minutes.
# Each sets up its own virtual environment in .venv; nothing outside this folder changes but the caches of pip and of compilers.

PYTHON ?= python3
BIN := .venv/bin
DEMO ?= build/demo
DATA ?= data

.PHONY: demo test proof frama-c bench golden format clean

demo: .venv/ready-verify
	rm -rf $(DEMO)
	$(BIN)/quantal demo --out $(DEMO)

test: .venv/ready-dev frama-c
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --durations 10

proof: .venv/ready-dev frama-c
	@command -v frama-c >/dev/null
	$(BIN)/python -m pytest -n 2 --durations 10 -m '' tests/test_frama_c.py

# As root with apt it is installed. Elsewhere `make test` goes on, and says which tests were skipped without it.
frama-c:
	@command -v frama-c >/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q && apt-get install -qy --no-install-recommends frama-c-base; \
	  else echo "No frama-c here; install your system's frama-c-base"; fi

bench: .venv/ready-verify
	$(BIN)/python benchmarks/presets.py --data $(DATA) --out build/bench

# A golden file changes only by this command and a sentence of why in the commit.
golden: .venv/ready-dev
	$(BIN)/python golden/regenerate.py --write

format: .venv/ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build .venv

.venv/ready-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "quantal needs Python 3.11 or later; name it with: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -qy python3-venv; \
	  else echo "Python has no venv module here; install your system's python3-venv package"; exit 2; fi; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
