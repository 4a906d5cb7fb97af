# Every target sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs
NOBLE := $(VENV)/noble
NOBLE_STAMP := $(NOBLE)/.installed

# A sourced ROS has packages of its own on these paths; here everything comes from .venv.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH
unexport AMENT_PREFIX_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH
# Set by the ROS wheels once they have set LD_LIBRARY_PATH; without that path they have to do it again.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
# The wheels have Fast DDS only.
unexport RMW_IMPLEMENTATION
# Else each process that a test starts compiles the package again.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONNOUSERSITE := 1
export PYTHONUNBUFFERED := 1
# see mmsam_ros/ros/main.py
export OMP_WAIT_POLICY ?= PASSIVE

# Tests of one file run in one process, in one process more than there are cores, as those of DDS
# often wait; at most four. Plugins are named: those of an installed ROS may not work with this pytest.
WORKERS ?= $(shell n=$$(nproc); [ $$n -gt 3 ] && echo 4 || echo $$((n + 1)))
PYTEST := PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -p xdist -p _hypothesis_pytestplugin
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# what is tested (a path, -k …): make test TESTS=test/sensors
TESTS ?=

.PHONY: help setup test test-quick test-noble test-numerics lint docs demo bench build clean

help:
	@echo "make setup          .venv with the package and everything that it needs"
	@echo "make test           all tests"
	@echo "make test-quick     without those that start nodes or training processes, or take long"
	@echo "make test-noble     with the numpy and OpenCV of Ubuntu 24.04"
	@echo "make test-numerics  the network's numbers as other processors compute them"
	@echo "make demo           renders a bag, plays it into the node over DDS, writes out/demo/"
	@echo "make bench          all benchmarks of speed, then docs/performance.md; AGAINST is another checkout"
	@echo "make lint           ruff and mypy"
	@echo "make docs           the documentation as a site, in out/site"
	@echo "make build          colcon build of the package into install/"

setup: $(STAMP)

$(STAMP): requirements.txt constraints.txt setup.py
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed, found " + sys.version'
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements.txt \
		--no-build-isolation --editable '.[train,synth,onnx,test]'
	touch $@

test: $(STAMP)
	$(PYTEST) $(PARALLEL) $(TESTS)

test-quick: $(STAMP)
	$(PYTEST) $(PARALLEL) -m 'not (dds or distributed or slow)' $(TESTS)

# What Ubuntu 24.04 has beside ROS 2 Jazzy: numpy below 2, OpenCV 4.6. The rest is .venv's.
$(NOBLE_STAMP): $(STAMP)
	$(BIN)/python -c 'import sys; assert sys.version_info < (3, 13), "numpy 1.26 needs Python 3.12 or older"'
	rm -rf $(NOBLE)
	$(BIN)/python -m pip install --quiet --no-deps --target $(NOBLE) numpy==1.26.4 opencv-python-headless==4.6.0.66
	touch $@

# What computes with arrays and images, and over DDS the node's inputs and outputs.
NOBLE_DDS := $(addprefix test/ros/test_,node.py defects.py outputs.py lazy_outputs.py inputs.py label_bag_and_node.py)
NOBLE_TESTS := test/sensors test/inference test/data test/ros test/cli
# files there whose subject reads neither numpy nor OpenCV
NOT_NOBLE := $(addprefix cli/test_,allocator main label_bag_failures label_bag_full_disk) \
	$(addprefix inference/test_,cache graphs ladder onnx_sessions) \
	$(addprefix ros/test_,engine_start multi parameter_files sync sync_jumps sync_properties)
test-noble: $(NOBLE_STAMP)
	PYTHONPATH=$(NOBLE) $(BIN)/python -c 'import cv2, numpy; assert (numpy.__version__, cv2.__version__) == ("1.26.4", "4.6.0")'
	PYTHONPATH=$(NOBLE) $(PYTEST) $(PARALLEL) -m 'not (dds or distributed or slow)' \
		$(NOT_NOBLE:%=--ignore=test/%.py) $(NOBLE_TESTS)
	PYTHONPATH=$(NOBLE) $(PYTEST) $(PARALLEL) -m dds $(NOBLE_DDS)

test-numerics: $(STAMP)
	$(BIN)/python test/numerics.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[docs]'
	touch $@

docs: $(DOCS_STAMP)
	$(BIN)/python -m mkdocs build --strict

build: $(STAMP)
	$(BIN)/python -m colcon --log-base log build --packages-select mmsam_ros \
		--build-base build --install-base install

demo: build
	$(BIN)/python examples/demo/demo.py --install install --out out/demo

# Each takes minutes; what is done is not repeated until out/bench is removed. AGAINST: the checkout
# to compare with, such as one that `git worktree add` made.
AGAINST ?=
BENCHMARKS := around labels outputs start engines frame node cameras responsive faults model scale flood soak train gpu
bench: $(STAMP) $(BENCHMARKS:%=out/bench/%)
	$(BIN)/python benchmarks/performance.py

OPTIONS_frame := $(AGAINST:%=--against %)
OPTIONS_node := $(OPTIONS_frame)
OPTIONS_model := --presets tiny,vit_l $(OPTIONS_frame)
OPTIONS_soak := --soak 60
OPTIONS_flood := --flood
PROGRAM_soak := bench_faults
PROGRAM_flood := bench_faults
out/bench/%: $(STAMP)
	BASELINE=$(AGAINST) $(BIN)/python benchmarks/$(or $(PROGRAM_$*),bench_$*).py $(OPTIONS_$*)
	mkdir -p out/bench
	touch $@

clean:
	rm -rf build install log out
