# Needs Python 3.11 or newer and make; everything else goes into .venv.
#   make demo   set up and run the whole workflow on generated images, into a fresh folder demo/
#   make test   set up and run the tests
#   make lint   style, types and the one-way imports

PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP := $(BIN)/python -m pip install --quiet
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test lint clean

demo: .venv/ready
	rm -rf demo
	$(BIN)/isocenter demo --out demo

test: .venv/ready-to-test
	$(BIN)/python -m pytest -n 2

lint: .venv/ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "isocenter needs Python 3.11 or newer; say which: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP) 'pip>=25.1'
	@touch $@

# torch comes first and alone: what depends on it must take the build that this machine was given.
.venv/ready: .venv/made pyproject.toml constraints.txt
	$(PIP) $(TORCH)
	$(PIP) -c constraints.txt -e .
	@touch $@

.venv/ready-to-test: .venv/ready
	$(PIP) -c constraints.txt -e '.[dicom]' --group dev
	@touch $@
