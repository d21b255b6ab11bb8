# make app     the calculator on http://localhost:8501
# make test    everything that must hold, the browser tests too
# make check   lint, types, the shape of the code
# make docs    the generated documents
# make check-kernels    the bundled kernels: emulated, and compiled for every architecture; no GPU needed
# make gpu-check OUT=folder    on a machine with a GPU: kernels, runs, validation, one summary
# make accuracy DATA=folder    the fit on public operator tables
# another interpreter: make app PY=python3.12; another port: make app PORT=8502

PY ?= python3
VENV ?= .venv
PORT ?= 8501
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable

.PHONY: app test check check-kernels gpu-check accuracy docs chromium constraints clean

app: $(VENV)/.app
	$(BIN)/planner app --port $(PORT)

test: check chromium
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not browser"
	$(BIN)/python -m pytest -q -m browser

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

# NVRTC and cuda-core come from the extra; a GPU and a driver are not needed.
check-kernels: $(VENV)/.test
	$(INSTALL) '.[test,cu13]'
	KERNEL_TARGETS=75,80,86,87,89,90,100,103,110,120,121 $(BIN)/python -m pytest -q -n $(WORKERS) tests/kernels

# With the machine's own Python, as torch and CUDA are its own: docs/calibration.md says what else it needs.
gpu-check:
	PYTHONPATH=.:$$PYTHONPATH $(PY) -m tests.gpu.check $(OUT) --within $(or $(WITHIN),720)

accuracy: $(VENV)/.test
	$(BIN)/python -m tests.opdata.figures $(DATA)

docs: $(VENV)/.app
	$(BIN)/python -m planner.cli.reference docs/cli.md
	$(BIN)/planner accuracy --markdown docs/accuracy.md >/dev/null
	$(BIN)/python docs/make_formats.py
	$(BIN)/python docs/make_nomenclature.py
	$(BIN)/python docs/make_rules.py
	$(BIN)/python docs/make_readme.py

$(BIN)/python:
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make app PY=python3.12 (found: $$($(PY) --version 2>&1))"; exit 1; }
	@$(PY) -m venv $(VENV) || { rm -rf $(VENV); echo "The venv module is missing: sudo apt-get install python3-venv"; exit 1; }

$(VENV)/.app: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) '.[quality]'
	@$(BIN)/python -m compileall -q planner app
	@touch $@

# With the compiler of the bundled kernels where there are wheels of it: their machine code is then tested too.
$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) '.[test,cu13]' || $(INSTALL) '.[test]'
	@touch $@ $(VENV)/.app

# Debian's own package where there is one, Playwright's build elsewhere; without root only the command is said.
chromium: $(VENV)/.test
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then exit 0; fi; \
	if grep -q '^ID=debian' /etc/os-release 2>/dev/null; then \
	  install="apt-get install --yes --no-install-recommends chromium fonts-dejavu-core"; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$install >/dev/null; exit $$?; fi; \
	  echo "The browser tests need Chromium: sudo $$install"; \
	else \
	  $(BIN)/playwright install chromium && exit 0; \
	  echo "The browser tests need Chromium: sudo $(BIN)/playwright install --with-deps chromium"; \
	fi; \
	echo "All other tests: $(BIN)/python -m pytest -m 'not browser'"; exit 1

# Pins what the app and its tests use; torch and CUDA stay with the machine that has a GPU.
constraints:
	uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	  --extra test --extra models pyproject.toml --output-file constraints.txt

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
