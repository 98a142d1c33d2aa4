# make demo   the built-in series: train, track, analyze, propose
# make findings   docs/findings.md from the stored results in docs/findings/
# make test   the tests;  make test-slow: those that kill, train and simulate
# make bench   what measuring costs, as ratios: benchmarks/README.md
# make test-slurm   those that need a Slurm, beside one that is started for them (Debian, root)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-slow test-slurm bench lint wheel findings clean

demo: $(STAMP)
	$(BIN)/tracker

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not slow and not slurm"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m slow

test-slurm: $(STAMP)
	tests/slurm/with.sh $(BIN)/python -m pytest -m slurm tests/test_slurm.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/turnover.py
	$(BIN)/python benchmarks/peers.py --tokens 400 --rounds 1

findings: $(STAMP)
	$(BIN)/python benchmarks/findings.py write

wheel: $(STAMP)
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
