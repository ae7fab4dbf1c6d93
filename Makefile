# Everything starts from a fresh clone: each target sets up .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
export PYTHONWARNINGS := ignore

# The build of TensorFlow: cpu, gpu (NVIDIA) or tpu.
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
CONSTRAINTS_cpu := constraints.txt
CONSTRAINTS_gpu := constraints-gpu.txt
CONSTRAINTS_tpu := constraints-tpu.txt
CONSTRAINTS = $(CONSTRAINTS_$(DEVICE))
STAMP = $(VENV)/.installed-$(DEVICE)

.PHONY: setup aria2 demo test test-slow test-without-tensorflow test-oldest test-oldest-sample fuzz quality style docs \
	docs-site bench wheel clean

setup: $(STAMP) aria2

# pip runs again only when what it installs from has changed, or for another device. TensorFlow's builds overwrite each
# other's files, so another one is removed first.
$(STAMP): pyproject.toml constraints.txt $(CONSTRAINTS)
	@test -n "$(CONSTRAINTS)" || { echo "error: DEVICE is cpu, gpu or tpu, not $(DEVICE)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 setup"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "error: python3 -m venv failed. On Debian or Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@for other in $(filter-out $@,$(wildcard $(VENV)/.installed*)); do \
		$(BIN)/python -m pip uninstall --quiet --yes tensorflow tensorflow-tpu libtpu && rm $$other; done
	$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[dev,$(DEVICE)]'
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

test-slow: setup test-without-tensorflow test-oldest-sample
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder --durations 15

# What works without TensorFlow, and Apache Beam, which wants older versions of packages than we pin.
BEAM := .venv-beam
$(BEAM)/.installed: pyproject.toml
	@test -x $(BEAM)/bin/python || $(PYTHON) -m venv $(BEAM)
	$(BEAM)/bin/python $(PIP_INSTALL) --prefer-binary -e '.[beam]' pytest hypothesis gcp-storage-emulator
	@touch $@

test-without-tensorflow: $(BEAM)/.installed
	$(BEAM)/bin/python -m pytest -m slow tests/records/test_beam_runner.py tests/commands/test_without_tensorflow.py

# The oldest TensorFlow that we support: all fast tests, or a part that takes two minutes.
OLDEST := .venv-oldest
OLDEST_TENSORFLOW := 2.20.0
OLDEST_SAMPLE := tests/conformance tests/training/test_trainer.py tests/commands/test_model_commands.py \
	tests/export/test_saved_model.py tests/models/panoptic_fpn/test_nms.py
$(OLDEST)/.installed: pyproject.toml constraints.txt
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	sed 's/^tensorflow==.*/tensorflow==$(OLDEST_TENSORFLOW)/' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python $(PIP_INSTALL) -c $(OLDEST)/constraints.txt -e '.[dev,cpu]'
	@touch $@

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -m "not slow" -n 2 --dist loadfile

test-oldest-sample: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -m "not slow" -n 2 --dist loadfile $(OLDEST_SAMPLE)

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

# The pages in docs/ as a site in site/. Wrong links are errors, but not with --quiet, which hides them from --strict.
DOCS := .venv-docs
$(DOCS)/.installed: pyproject.toml constraints.txt
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python $(PIP_INSTALL) 'pip>=25.1'
	$(DOCS)/bin/python $(PIP_INSTALL) -c constraints.txt --group docs
	@touch $@

docs-site: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo "the site is in site/; to read it: $(PYTHON) -m http.server --directory site"

bench: setup
	$(BIN)/python -m benchmarks.run

# For pip install 'dist/panoptic_cli-VERSION-py3-none-any.whl[cpu]'.
wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(BEAM) $(OLDEST) $(DOCS) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
