# make demo    the embedded world, end to end            make lint    ruff and mypy
# make test    every test                                make bench   ratios against what others do
# make clean   caches and builds (never .venv, never your data)
#
# Each makes .venv when it is missing or older than pyproject.toml and constraints.txt. PYTHON=... picks another Python.

SHELL  := /bin/bash
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
JOBS   ?= 2
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)

export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(VENV)/bin/eoflow demo

# One thread a worker: two workers with two threads each are slower than two with one.
test: export OMP_NUM_THREADS := 1
test: $(STAMP)
	$(PY) -m pytest -n $(JOBS) --dist loadfile --timeout 600 $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: $(STAMP)
	$(PY) -m benchmarks $(ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis lightning_logs
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# uv only where it can see the torch that is pinned, and not as a CUDA build of several GB that pip would not take.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "eoflow needs Python 3.11, 3.12 or 3.13; give it as make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@if plan=$$(uv pip install --python $(PY) --dry-run -c constraints.txt torch 2>&1) && ! grep -qi nvidia <<<"$$plan"; \
	then installer="uv pip install --python $(PY)"; else installer="$(PY) -m pip install --disable-pip-version-check"; fi; \
	echo "Installing eoflow and its dependencies into $(VENV) (log: $(VENV)/install.log)"; \
	$$installer -c constraints.txt -e ".[all]" >$(VENV)/install.log 2>&1 || { tail -n 25 $(VENV)/install.log; exit 1; }
	@touch $@
