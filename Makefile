# Everything starts from a fresh clone: each target sets up .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup aria2 demo test test-slow test-beam fuzz quality style docs bench clean

setup: $(STAMP) aria2

# pip runs again only when what it installs from has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 setup"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "error: python3 -m venv failed. On Debian or Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# aria2c is what panoptic download drives; nothing else needs it.
aria2:
	@command -v aria2c >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			{ apt-get install -y -qq aria2 || { apt-get update -qq && apt-get install -y -qq aria2; }; } >/dev/null 2>&1 \
			&& echo "installed aria2" || echo "hint: aria2c could not be installed; panoptic download needs it (apt-get install aria2)"; \
		else echo "hint: panoptic download needs aria2c: apt-get install aria2, or brew install aria2"; fi; }

demo: setup
	$(BIN)/panoptic demo

# Two processes: tracing graphs uses one core. The tests of a file share a process, and so the networks it makes.
test: setup
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --durations 15

test-slow: setup test-beam
	$(BIN)/python -m pytest -m slow

# Apache Beam wants older versions of packages than we pin, so it gets an environment of its own; TensorFlow is not needed.
BEAM := .venv-beam
$(BEAM)/.installed: pyproject.toml
	@test -x $(BEAM)/bin/python || $(PYTHON) -m venv $(BEAM)
	PYTHONWARNINGS=ignore $(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
		'apache-beam>=2.70' typer rich pydantic PyYAML pillow pycocotools google-crc32c kornia-rs isal msgspec pytest hypothesis
	PYTHONWARNINGS=ignore $(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

test-beam: $(BEAM)/.installed
	$(BEAM)/bin/python -m pytest -m slow tests/records/test_beam_runner.py

# Other random inputs at every run, where the tests above repeat the same ones.
fuzz: setup
	$(BIN)/python -m pytest --hypothesis-profile random -m hypothesis tests

quality: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests

style: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The reference of all commands, from their help texts; a test tells when it is out of date.
docs: setup
	$(BIN)/python docs/generate.py

bench: setup
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) $(BEAM) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
