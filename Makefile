# The one door. `make` lists what it does; the first run makes .venv and installs what it needs.
#
#   PYTHON   which interpreter .venv is made with               (default python3; 3.11 or newer)
#   TORCH    which PyTorch                                      (default: the one that CI runs)
#   TRITON_NEWEST  the Triton that kernels are compiled with, too (default: the one that CI runs)
#   TORCH_PIP_FLAGS  for its installation: on a box without GPU, name an index of CPU builds here, without CUDA libraries
#   DEVICE   what `make up` computes on: cpu, which the demo model needs no more than, or auto for an NVIDIA card (default cpu)
#   QUICK    1 has `make gpu-check` measure the most important alone
#   OUT      folder for what `make gpu-check` finds             (default gpu-check)
#   BENCH    flags of `make bench`, such as --llama-cpp BIN_DIR (default: none; docs/performance.md has them)
#   TESTS    which tests to run, as pytest markers              (default: all that need neither GPU, Docker nor another environment;
#            those marked browser skip where there is no chromium)

PYTHON ?= python3
TORCH ?= 2.13.0
TRITON_NEWEST ?= 3.9.0
TORCH_PIP_FLAGS ?=
TESTS ?= not gpu and not docker and not clients
DEVICE ?= $(or $(EDGESERVE_DEVICE),cpu)
PROMPT ?= Once upon a time
BENCH ?=

# As on a processor with AVX2 and nothing newer: no instructions for bf16, and 8-bit products that overflow. PyTorch's own kernels,
# oneDNN and FBGEMM have a variable each, which tests/model/test_older_processor.py holds them to.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 FBGEMM_ENABLE_INSTRUCTIONS=AVX2
AVX2_TESTS := tests/model tests/worker/test_device_dtypes.py tests/worker/test_stage.py tests/cluster/test_equality.py
# How the layers are cut over workers, and what memory loading takes, has nothing to do with how they are computed: one cut is enough.
AVX2_CASES := (not test_greedy_tokens_are_those_of_transformers or 1-2-1) and not test_loading_needs_little_memory

VENV := .venv
BIN := $(VENV)/bin
SOURCES := edgeserve tests scripts benchmarks
# Compiling all of transformers takes longer than compiling what is imported of it, when it is.
PIP := $(BIN)/python -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE
# Two processes, a file in one of them, in the order that tests/conftest.py gives them: files that take long first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help up triton-newest cuda-kernels lint test avx2 check fix protos bench gpu-check

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

up: $(VENV)/runtime  ## three workers and a gateway on the demo model; answers one prompt, then keeps serving
	$(BIN)/edgeserve up --device $(DEVICE) --prompt "$(PROMPT)"

test: $(VENV)/dev  ## every test that needs neither a GPU, nor Docker, nor clients
	$(PYTEST) -m "$(TESTS)"

avx2: $(VENV)/dev  ## the tests that compute, as on a processor without AVX-512
	$(AVX2) $(PYTEST) -m "not gpu and not docker" -k "$(AVX2_CASES)" $(AVX2_TESTS)

lint: $(VENV)/dev  ## format, lint, types and import contracts
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

triton-newest: $(VENV)/triton-newest/triton-$(TRITON_NEWEST).dist-info  ## the newest Triton, beside the one of the pinned PyTorch; for tests/cuda

cuda-kernels: triton-newest  ## compile every kernel for every built-in shape, dtype and card, without one; half an hour
	CUDA_KERNELS=all $(PYTEST) tests/cuda/test_compiled.py

check: $(VENV)/dev triton-newest  ## what CI runs: lint, tests, and those that compute once more without AVX-512
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory avx2

fix: $(VENV)/dev  ## format, and repair what ruff can
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

protos: $(VENV)/dev  ## make edgeserve/wire/pb again from protos/
	$(BIN)/python -m grpc_tools.protoc -Iprotos/edgeserve/v1 \
		--python_out=edgeserve/wire/pb --pyi_out=edgeserve/wire/pb worker.proto

bench: $(VENV)/dev  ## edgeserve beside transformers, and beside llama.cpp if BENCH names it; minutes on a quiet machine
	$(BIN)/python -m benchmarks.side_by_side $(BENCH)

gpu-check: $(VENV)/dev  ## is the CUDA path right, and how fast? under 8 minutes, QUICK=1 under 3; fails where there is no GPU
	$(BIN)/python -m benchmarks.gpu_check $(if $(QUICK),--quick)

# Torch first and by name: the range in pyproject.toml alone would let pip choose another build of it.
$(VENV)/torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgeserve needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_PIP_FLAGS) "torch==$(TORCH)"
	@touch $@

# Not a part of the environment: a test's process that compiles with it finds it through PYTHONPATH.
$(VENV)/triton-newest/triton-$(TRITON_NEWEST).dist-info: | $(VENV)/dev
	$(PIP) --upgrade --no-deps --target $(VENV)/triton-newest "triton==$(TRITON_NEWEST)"

$(VENV)/runtime: $(VENV)/torch pyproject.toml
	$(PIP) --editable ".[gateway,worker]"
	@touch $@

$(VENV)/dev: $(VENV)/torch pyproject.toml
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/runtime
