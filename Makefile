# Everyday jobs. Needs Python 3.11 or newer, git and make; everything else goes into .venv.

PYTHON ?= python3
MINOR := $(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])')
PINS := constraints/$(MINOR).txt
BIN := .venv/bin

.PHONY: demo test lint types wrists clean

demo: .venv/installed  ## the main job on a simulated cohort: table on the terminal, runs/demo/report.html
	rm -rf runs/demo
	$(BIN)/distill run --config=configs/quickstart.py --workdir=runs/demo

test: .venv/installed-test  ## all tests, on the checked-out code
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

lint: .venv/installed-test  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-test  ## types
	$(BIN)/mypy

wrists: .venv/installed  ## the same job on real recordings: make wrists SOURCE=folder-of-official-files
	$(BIN)/distill run --config=configs/wrists.py --config.data.source=$(SOURCE) --workdir=runs/wrists

clean:  ## forgets runs and prepared data, keeps .venv
	rm -rf runs prepared

$(PINS):
	@echo "no $(PINS): supported are Python 3.11, 3.12 and 3.13; name one with: make PYTHON=python3.12" >&2; exit 2

.venv/bin/python: $(PINS)
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg $(PINS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e ".[test]"
	touch $@
