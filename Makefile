# Each target sets up .venv with an editable install if there is none or the build has changed. The package is built without
# pip's isolation, whose new environment each time would throw away the objects of the last build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --no-build-isolation -e
CORE := $(shell find csrc CMakeLists.txt -type f)

.PHONY: demo test check check-kernels gpu-check docs format bench coverage clean

demo: $(or $(wildcard $(VENV)/ready),$(VENV)/train)
	$(BIN)/pygrade demo

# ARGS='-m "not release"' runs the slow tests too.
test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -q $(ARGS)

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(find csrc bench devtools examples -name '*.[ch]pp' -o -name '*.[ch]')
	$(BIN)/mypy
	$(BIN)/python -m devtools.lines

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc bench devtools examples -name '*.[ch]pp' -o -name '*.[ch]')

# The PTX of every kernel for every NVIDIA target, with two fills of unwritten shared memory. Then the tests with tolerances in Triton 3.6's
# interpreter, which does not fuse multiply-add and parses scalars as numpy 2.3 did.
check-kernels: $(VENV)/ready
	for arch in sm_80 sm_90 sm_100; do for fill in 255 127; do $(BIN)/python -m pytest -n 2 -q -m "slow or not slow" \
	  --emulate $$arch --fill $$fill tests/kernels tests/ops -k "triton or variant or offsets or random_call" || exit 1; done; done
	[ -d build/triton-3.6/triton ] || $(BIN)/python -m pip install --no-deps --target build/triton-3.6 'triton==3.6.*'
	[ -d build/numpy-2.3/numpy ] || $(BIN)/python -m pip install --no-deps --target build/numpy-2.3 'numpy==2.3.*'
	PYTHONPATH=build/triton-3.6:build/numpy-2.3 $(BIN)/python -m pytest -n 2 -q -W ignore::DeprecationWarning \
	  tests/kernels/test_device.py tests/kernels/test_special.py tests/kernels/test_selection.py \
	  tests/ops/test_advantage.py tests/ops/test_grpo.py tests/ops/test_lambdaloss.py \
	  -k "agrees or special or ranks or jagged or meet or (triton and not library and not compile)"

# For a machine with a GPU; needs no network, but a Python with torch and triton: make gpu-check PYTHON=python3.
# STEPS=parity,bench runs some steps; DEVICE=cpu is a dry run in .venv.
DEVICE ?= cuda
ifeq ($(DEVICE),cuda)
gpu-check:
	$(PYTHON) -m pip install --no-build-isolation --no-deps --no-index -e .
	$(PYTHON) -m bench.gpu.check --steps "$(STEPS)"
else
gpu-check: $(VENV)/ready
	$(BIN)/python -m bench.gpu.check --device $(DEVICE) --steps "$(STEPS)"
endif

# The site, in build/site. A broken link, or something that a page would load from another host, is an error.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(VENV)/peers
	$(BIN)/python -m bench
	$(BIN)/python -m bench report

# Lines that tests run, in bench/results/coverage.json and docs/checklists.md; minutes.
coverage: $(VENV)/ready
	$(BIN)/cmake --preset coverage
	$(BIN)/cmake --build --preset coverage
	$(BIN)/python -m devtools.measure_coverage

clean:
	rm -rf build $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/peers: $(VENV)/ready
	$(INSTALL) '.[bench]'
	touch $@

# What the demo needs, and what development needs; the second compiles nothing again.
$(VENV)/train: EXTRA := train
$(VENV)/ready: EXTRA := dev
$(VENV)/train $(VENV)/ready: $(VENV)/bin/python pyproject.toml $(CORE)
	$(BIN)/python -m pip install cmake ninja $$($(BIN)/python -c \
	  'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
	$(INSTALL) '.[$(EXTRA)]'
	touch $@
