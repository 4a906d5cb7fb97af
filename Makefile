# make test, make demo, make lint: each sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PYTHONUNBUFFERED := 1
# see mmsam_ros/ros/main.py
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup test lint demo build clean

help:
	@echo "make test   all tests"
	@echo "make demo   renders a bag, plays it into the node over DDS, writes out/demo/"
	@echo "make lint   ruff and mypy"
	@echo "make build  colcon build of the package into install/"

setup: $(STAMP)

$(STAMP): requirements.txt constraints.txt setup.py
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed, found " + sys.version'
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --requirement requirements.txt --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: $(STAMP)
	$(BIN)/python -m colcon --log-base log build --packages-select mmsam_ros \
		--build-base build --install-base install

demo: build
	$(BIN)/python benchmarks/demo.py --install install --out out/demo

clean:
	rm -rf build install log out
