# Each target makes its own virtual environment and installs what it needs from PyPI.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml tools/build_backend.py $(wildcard sona_shm/_core/*)

.PHONY: demo router test test-peft lint docs bench bench-routing torture clean

demo: $(VENV)/installed-demo
	$(BIN)/sona demo

# The example router on http://127.0.0.1:8000, until Ctrl-C.
router: $(VENV)/installed-router
	$(BIN)/gunicorn -c examples/router/gunicorn.conf.py

# Shared out to as many processes as there are cores, up to four: most tests wait for others.
test: $(VENV)/installed-test
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

# torch and peft are large, and nothing else needs them: an environment of their own.
test-peft:
	$(MAKE) VENV=$(VENV)-peft $(VENV)-peft/installed-test $(VENV)-peft/installed-peft
	$(VENV)-peft/bin/pytest tests/test_peft.py

lint: $(VENV)/installed-lint $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, from docs/ and the docstrings, into build/docs; whatever Sphinx warns of is an error.
docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build -W --keep-going -n -q -b html docs build/docs

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/hotpath.py
	$(BIN)/python benchmarks/visibility.py
	$(BIN)/python benchmarks/background.py
	$(BIN)/python benchmarks/transport.py
	$(BIN)/python benchmarks/monitoring.py

# About half an hour on two cores.
bench-routing: $(VENV)/installed-bench
	$(BIN)/python benchmarks/routing.py
	$(BIN)/python benchmarks/routing.py --change
	$(BIN)/python benchmarks/routing.py --ablation
	$(BIN)/python benchmarks/routing.py --workers
	$(BIN)/python benchmarks/recurring.py
	$(BIN)/python benchmarks/trajectories.py

torture: $(VENV)/installed-test
	$(BIN)/python -m tests.torture

# The package is installed in place, so that what is tested is what is read.
$(VENV)/installed-%: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-peft build dist *.egg-info sona_shm/_core*.so
