# Two commands do everything on a machine with Python and pip: `make demo` and `make test`.
# Both make .venv on first use; a stamp file keeps them from installing again until the requirements change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# the extension is compiled anew when its sources change
REQUIREMENTS := pyproject.toml setup.py constraints.txt $(wildcard csrc/*.cpp csrc/*/*)

# The oldest Triton that is supported lies in a folder of its own beside the one that pip installs; tests compile with both.
# Triton has packages for Linux alone.
OLDEST_TRITON := 3.6.0
OLDEST_TRITON_INSTALLED := $(if $(filter Linux,$(shell uname)),$(VENV)/.triton-$(OLDEST_TRITON)-installed)

# processes of the test run, one thread each
JOBS ?= 2

# DEMO=long trains longer, into a run of its own
DEMO ?= short
DEMO_RUN_short := runs/demo
DEMO_RUN_long := runs/demo-long
DEMO_SETTINGS_short :=
DEMO_SETTINGS_long := --train.steps 5000
DEMO_RUN := $(DEMO_RUN_$(DEMO))

.DEFAULT_GOAL := help
.PHONY: help demo test test-avx2 test-slow bench lint extension

help:
	@echo "make demo        install, pre-train the embedded default for minutes, show what it predicts"
	@echo "make demo DEMO=long   the same with a longer run"
	@echo "make test        install the test extras, run the whole suite (JOBS=$(JOBS))"
	@echo "make test-avx2   the tests of numbers and of the compiler again, as on a CPU that has AVX2 only"
	@echo "make test-slow   the long tests that the suite leaves out"
	@echo "make lint        ruff check, ruff format --check, mypy"
	@echo "make bench       the benches that a CPU can run"
	@echo "make extension   install nvcc from PyPI and build the kernels in CUDA C++; not needed where nvcc is installed"

demo: $(VENV)/.plots-installed
	$(if $(DEMO_RUN),,$(error DEMO must be short or long, got '$(DEMO)'))
	@if [ -d $(DEMO_RUN) ]; then \
	    echo "$(DEMO_RUN) exists: going on with it (rm -r $(DEMO_RUN) starts afresh)"; \
	    $(BIN)/unmask pretrain --resume $(DEMO_RUN); \
	else \
	    $(BIN)/unmask pretrain $(DEMO_SETTINGS_$(DEMO)) --run $(DEMO_RUN); \
	fi
	@echo
	@$(BIN)/unmask fill-mask $(DEMO_RUN) \
	    "Returns [MASK] if the object is a tensor and False otherwise." \
	    "Return the number of nodes in the [MASK]." \
	    "out : tensor, [MASK]. the output tensor."
	@echo
	@$(BIN)/unmask plot $(DEMO_RUN)

# A limit ends what hangs and nothing else: attention's interpreted module, among the longest, took 66 s, and 152 s on a busy machine
test: $(VENV)/.test-installed $(OLDEST_TRITON_INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -p no:benchmark \
	    --timeout 1500 --timeout-method thread

# PyTorch, Inductor, oneDNN and NumPy's BLAS each choose their code by the CPU; these three variables hold all four to AVX2
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell
NUMERICS := $(foreach name,philox precision documents layer_norm layer_norm_forms gelu embedding linear_gelu mlm_loss \
    mlm_loss_chunks masking attention attention_grouped,tests/kernels/test_$(name).py) tests/engine/model tests/engine/interop \
    tests/integration $(foreach name,step precision optim,tests/engine/train/test_$(name).py)

test-avx2: $(VENV)/.test-installed
	$(AVX2) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -p no:benchmark \
	    --timeout 1500 --timeout-method thread $(NUMERICS)

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-slow: $(VENV)/.test-installed $(OLDEST_TRITON_INSTALLED)
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/.test-installed
	$(BIN)/python -m pytest bench --timeout 1800

extension: $(VENV)/.cuda-build-installed

$(VENV)/.cuda-build-installed: export UNMASK_BUILD_CUDA := 1

$(VENV)/.%-installed: $(BIN)/python $(REQUIREMENTS)
	$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

$(VENV)/.triton-$(OLDEST_TRITON)-installed: $(BIN)/python
	@rm -rf $(VENV)/triton-$(OLDEST_TRITON)
	$(PIP_INSTALL) --no-deps --no-compile --target $(VENV)/triton-$(OLDEST_TRITON) triton==$(OLDEST_TRITON)
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "unmask needs Python 3.11 or newer, $(PYTHON) is older; name another: make PYTHON=python3.12 ..."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu it needs the package python3-venv"; exit 2; }
