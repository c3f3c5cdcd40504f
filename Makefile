# `make` lists the commands. With a virtual or conda environment active they run in it; without one, in a
# .venv made here at the first command. PYTHON chooses the Python of that .venv: make demo PYTHON=python3.12
PYTHON ?= python3

ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
RUN := "$(or $(ACTIVE),.venv)/bin/python"
READY := $(if $(ACTIVE),active-environment,.venv/.installed)
INSTALL := -m pip install --quiet --disable-pip-version-check

# What ".[dev,demo]" brings, by import name: one missing in an active environment, and it is installed there.
NEEDED := qexplore build click furo hypothesis ipykernel ml_dtypes mypy myst_parser nbclient onnx onnxruntime \
	onnxscript pandas plotly pytest ray ruff selenium sklearn sphinx torchao transformers xdist yaml

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format bench docs pictures active-environment

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## explore a small network on handwritten digits; no download, about two minutes
	@$(RUN) experiments/digits/run.py

# A file stays in one process, which builds what its tests share once; the quickest files are not those with few tests.
WORKERS ?= 2
test: $(READY) ## all tests but the slow ones, in two processes
	@$(RUN) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# pytest exits with 5 when it finds no test to run.
test-slow: $(READY) ## the slow tests
	@$(RUN) -m pytest -m slow || { \
		code=$$?; \
		if [ $$code -ne 5 ]; then exit $$code; fi; \
		echo "no slow tests yet"; \
	}

check: $(READY) ## style, types, floors, and that no device is named
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy --strict src
	@$(RUN) -m pytest --quiet tests/test_architecture.py tests/test_devices.py

format: $(READY) ## rewrite the files in the agreed style
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

bench: $(READY) ## run every benchmark; one that ends with code 2 has said what it lacks here
	@for script in benchmarks/[!_]*.py; do \
		if [ ! -e "$$script" ]; then echo "no benchmarks yet"; break; fi; \
		echo "== $$script"; \
		$(RUN) "$$script" || [ $$? -eq 2 ] || exit; \
	done

# Links to elsewhere are looked at where there is a network; what is inside the guide is tested without one.
docs: $(READY) ## build the guide into docs/_build/html, warnings as errors
	@$(RUN) -m sphinx -q -W --keep-going -d docs/_build/trees docs docs/_build/html
	@echo "The guide: docs/_build/html/index.html"
	@$(RUN) -c 'import socket; socket.create_connection(("github.com", 443), 3)' 2>/dev/null \
		&& $(RUN) -m sphinx -q -b linkcheck -d docs/_build/trees docs docs/_build/links \
		|| echo "Links to elsewhere were not all looked at, or are broken: docs/_build/links/output.txt, if there is a network"

pictures: $(READY) ## make the pictures of README and guide anew; minutes, with a browser
	@$(RUN) docs/pictures.py

# constraints.txt holds releases that need Python 3.11, hence the question in between.
.venv/.installed: setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("qexplore needs Python 3.10 or newer, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	@echo "No environment is active: making .venv and installing into it. PyTorch is large, this can take minutes."
	@$(PYTHON) -m venv .venv
	@tested=$$($(RUN) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")'); \
		$(RUN) $(INSTALL) $$tested -e ".[dev,demo]"
	@touch $@

active-environment:
	@$(RUN) -c 'import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))' $(NEEDED) || { \
		echo "Installing qexplore and its development tools into $(ACTIVE)"; \
		$(RUN) $(INSTALL) -e ".[dev,demo]"; \
	}
