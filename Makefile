# Nothing of the product needs make: these are short names for what the README also spells out.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Where pip's default torch is a CUDA build of gigabytes and the CPU one will do:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# CI pins versions; people get the supported ranges: make check PIP_ARGS="-c constraints.txt"
PIP_ARGS ?=

# Two processes of one thread each: on two cores nearly twice as fast as one process of two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test check format lint types tests dist clean

demo: $(VENV)/demo.stamp
	$(BIN)/unias demo

test: $(VENV)/dev.stamp
	$(PYTEST) -m "not slow"

check: $(VENV)/dev.stamp format lint types tests

format: $(VENV)/dev.stamp
	$(BIN)/ruff format --check src tests

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check src tests

types: $(VENV)/dev.stamp
	$(BIN)/mypy

tests: $(VENV)/dev.stamp
	$(PYTEST)

dist: $(VENV)/dev.stamp
	$(BIN)/python -m build --outdir dist

$(VENV)/torch.stamp:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=24"
	$(if $(TORCH_INDEX),$(PIP) install torch torchvision --index-url $(TORCH_INDEX),)
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) install $(PIP_ARGS) -e ".[demo]"
	touch $@

$(VENV)/dev.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) install $(PIP_ARGS) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache demo-report demo-data
