# make serve   install what is missing and serve the built-in demo model at http://127.0.0.1:8000
# make test    install what is missing and run the test suite
# make long    run what the suite leaves out for its length: the contract on processes, and the like
# make check   lint, types and import contracts
# make soak    break simulated services for MINUTES=30, by ever new seeds from FIRST=1000 on
# make clients install LiteLLM, LangChain and Node's openai, for the tests that speak through them
# make fuzz    send EXAMPLES=500 requests of each kind, made of the service's own document
#
# PYTHON=python3.12 chooses the interpreter, TORCH="torch==2.11.0 --index-url …" another torch build.

PYTHON ?= python3
TORCH ?=
MINUTES ?= 30
FIRST ?= 1000
EXAMPLES ?= 500
VENV := .venv
BIN := $(VENV)/bin
CPU_TORCH_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: serve test long check soak clients fuzz install clean

serve: $(VENV)/.installed
	exec $(BIN)/python -m runtime.launch --model demo --stages 2

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m "not long" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m long

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Other people's clients: an environment for each, since they do not agree on theirs, and Node's.
clients:
	$(PYTHON) -m venv .venv-clients/litellm
	.venv-clients/litellm/bin/pip install --disable-pip-version-check -q litellm mcp
	$(PYTHON) -m venv .venv-clients/langchain_openai
	.venv-clients/langchain_openai/bin/pip install --disable-pip-version-check -q langchain-openai
	cd .venv-clients && npm install --no-audit --no-fund --silent openai@6

# Many requests made of the service's own document, in process and over a service of two stages.
fuzz: $(VENV)/.installed-dev
	REMUDA_SCHEMA_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q --timeout 3600 \
	  tests/runtime/gateway/test_schemas.py tests/cluster/test_schemas.py

soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.simulation.run --seeds $(FIRST):1000000 --minutes $(MINUTES)

install: $(VENV)/.installed

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# The first torch that fits: the one already there, the one asked for, the CUDA build where a GPU is,
# a wheel on this machine's own disk, the CPU build. Only the last resort may be larger than needed.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version); try make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then echo "torch is installed"; \
	elif [ -n '$(TORCH)' ]; then $(BIN)/pip install $(TORCH); \
	elif [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; then $(BIN)/pip install 'torch>=2.9'; \
	elif $(BIN)/pip install -q --no-index --no-deps torch==2.13.0 2>/dev/null; then echo "torch from a local file"; \
	elif $(BIN)/pip install --index-url $(CPU_TORCH_INDEX) 'torch>=2.9'; then :; \
	else $(BIN)/pip install 'torch>=2.9'; fi
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --disable-pip-version-check -q -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check -q -e '.[dev]'
	@touch $@
