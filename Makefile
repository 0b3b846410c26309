# Jettison: everything a developer does, one word each. Needs Python >= 3.11 and a C++ compiler; the rest goes into .venv.
#
#   make demo      install, then train, prune and compare a network on embedded data; digits.html shows where its time goes
#   make test      install, check style and types, run all tests
#   make native    rebuild the extension after a change in native/
#   make asan      the tests of native code under AddressSanitizer and UndefinedBehaviorSanitizer
#   make emulate   the tests of native code with AVX-512 in software, on a processor without it; needs SIMDe's headers
#   make lint      ruff, basedpyright, clang-format (checks only)      make format    apply ruff and clang-format
#   make bench     measure all engines on this machine, write bench/results/
#   make docs      regenerate tables and figures from bench/results/
#   make clean     remove builds and caches                            make distclean    and .venv
#
#   PYTHON=python3.12   another Python          PIP_FLAGS='...'   for example an index with CPU-only PyTorch wheels

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

IS_PYTHON_311 := 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c $(IS_PYTHON_311) 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --quiet --no-compile -c constraints.txt $(PIP_FLAGS)
NATIVE := $(wildcard native/* native/*/*)
CPP := $(filter %.cpp %.h,$(NATIVE))

# ---- install

.PHONY: tools
tools:
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c $(IS_PYTHON_311) 2>/dev/null; then \
		echo "Jettison needs Python 3.11 or newer: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; fi
	@if ! command -v $(CXX) >/dev/null; then \
		echo "Jettison needs a C++17 compiler ($(CXX) was not found): install g++ or clang++, or name one: make CXX=clang++" >&2; exit 2; fi

$(VENV)/.build: constraints.txt | tools
	@echo "== virtual environment $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) "scikit-build-core>=0.10" "nanobind>=2.4" cmake ninja
	touch $@

$(VENV)/.train: $(VENV)/.build pyproject.toml CMakeLists.txt
	@echo "== Jettison with PyTorch (a few minutes)"
	$(INSTALL) --no-build-isolation -e ".[train,report]"
	touch $@

$(VENV)/.test: $(VENV)/.train
	@echo "== what tests and comparisons need"
	$(INSTALL) --no-build-isolation -e ".[train,report,bench,test,docs]"
	touch $@

# The editable install leaves its build folder behind; only what changed is compiled again.
.PHONY: native
native: $(VENV)/.train
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))'); \
	for build in build/cp*; do \
		$(BIN)/cmake --build $$build && $(BIN)/cmake --install $$build --prefix $$site >/dev/null; done

# ---- use

.PHONY: demo
demo: native
	$(BIN)/jettison compress examples/own_network.py:small_cnn --data digits --size 32 --dense-epochs 5 --epochs 5 --batch 32 \
		--pattern 1:8 -o digits.jettison
	$(BIN)/jettison waterline digits.jettison -o digits.html

.PHONY: test
test: $(VENV)/.test native lint
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

.PHONY: lint
lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/clang-format --dry-run --Werror $(CPP)

.PHONY: format
format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

# $(1): folder of an environment of its own, with native code built there; $(2): how.
define installed
$(PYTHON) -m venv $(1)/venv
$(1)/venv/bin/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS) . pytest pytest-timeout hypothesis \
	-C build-dir=$(1)/native $(2)
touch $@
endef

# A second, small environment: without PyTorch, whose own memory handling would drown ours.
ASAN := build/asan
ASAN_TESTS ?= $(wildcard tests/test_kernels*.py) tests/test_lut.py tests/test_runtime.py -k "not memory_does_not_grow"
.PHONY: asan
asan: $(ASAN)/.ready
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		$(ASAN)/venv/bin/python -m pytest -p no:cacheprovider $(ASAN_TESTS)

$(ASAN)/.ready: $(NATIVE) $(wildcard src/jettison/*.py src/jettison/*/*.py) pyproject.toml CMakeLists.txt | tools
	$(call installed,$(ASAN),-C cmake.build-type=RelWithDebInfo -C cmake.define.JETTISON_SANITIZE=ON)

# Another: AVX-512 kernels tested where the processor has none.
EMULATE := build/emulate
EMULATE_TESTS ?= $(wildcard tests/test_kernels*.py) tests/test_lut.py tests/test_runtime.py
.PHONY: emulate
emulate: $(EMULATE)/.ready
	$(EMULATE)/venv/bin/python -m pytest -p no:cacheprovider $(EMULATE_TESTS)

$(EMULATE)/.ready: $(NATIVE) $(wildcard src/jettison/*.py src/jettison/*/*.py) pyproject.toml CMakeLists.txt | tools
	@if ! echo '#include <simde/x86/avx512.h>' | $(CXX) $(CXXFLAGS) -E -x c++ - >/dev/null 2>&1; then \
		echo "make emulate needs SIMDe's headers: apt-get install libsimde-dev, or CXXFLAGS=-I/path/to/simde" >&2; exit 2; fi
	$(call installed,$(EMULATE),-C cmake.define.JETTISON_EMULATE=ON)

.PHONY: bench
bench: $(VENV)/.test native
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/readme_table.py

.PHONY: docs
docs: $(VENV)/.test
	$(BIN)/python bench/readme_table.py
	$(BIN)/python bench/plot_accuracy.py
	$(BIN)/python bench/picture_report.py
	$(BIN)/jettison gap $(foreach n,20 56,float32=bench/results/gap_resnet$(n).json int8=bench/results/gap_resnet$(n)-int8.json) -o docs/img/gap.svg
	$(BIN)/python bench/plot_speed.py
	$(BIN)/python bench/plot_tabconv.py
	$(BIN)/python bench/plot_density.py

.PHONY: clean
clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean
	rm -rf $(VENV)

.PHONY: help
help:
	@sed -n '/^#   make/s/^#   //p' Makefile
