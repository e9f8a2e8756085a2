# make setup | demo | test | lint | clean. PYTHON names the interpreter for the virtual environment (3.10 to 3.12).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := setup.py pyproject.toml CMakeLists.txt $(wildcard csrc/*)

.PHONY: setup demo test lint clean

setup: .venv/.built

# torch first and alone: pip then keeps it while it resolves what depends on it
.venv/.installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install $(shell grep '^torch==' requirements.txt)
	$(PIP) install -r requirements.txt
	touch $@

.venv/.built: .venv/.installed $(SOURCES)
	$(PIP) install --no-build-isolation --no-deps --editable .
	touch $@

# every demo keeps its own folder: runs/demo, runs/demo-2, ...
demo: setup
	@out=runs/demo; n=1; while [ -e $$out ]; do n=$$((n + 1)); out=runs/demo-$$n; done; \
	$(BIN)/aslfast train --recipe tiny --out $$out

test: setup
	$(BIN)/python -m pytest -q

lint: setup
	mkdir -p build/typing && ln -sfn ../../kernels build/typing/aslfast_kernels
	$(BIN)/ruff check .
	! test -x $(BIN)/pyright || $(BIN)/pyright

clean:
	rm -rf build dist *.egg-info aslfast/_bm25.*.so .venv/.built
