# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UPSTREAM := .venv-upstream
# Two files at a time on one thread each: threads of several processes would spin against each other.
PYTEST_ENV := OMP_NUM_THREADS=1
PYTEST_ARGS := --numprocesses 2 --dist loadfile --durations 10
# In processes of their own: training in one that has run OpenVINO before ended in a segmentation fault.
EXPORTING := tests/test_benchmark.py tests/test_deploy.py tests/test_image_demo.py

.PHONY: demo test test-upstream benchmark lint format clean
demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py

test: lint
	$(PYTEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS) $(EXPORTING)
	$(PYTEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS) $(addprefix --ignore=,$(EXPORTING))

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The same suite on the upstream packages; mmcv is compiled, which takes about ten minutes.
test-upstream: $(UPSTREAM)/.installed
	$(PYTEST_ENV) $(UPSTREAM)/bin/python -m pytest $(PYTEST_ARGS) $(EXPORTING)
	$(PYTEST_ENV) $(UPSTREAM)/bin/python -m pytest $(PYTEST_ARGS) $(addprefix --ignore=,$(EXPORTING))

# Everything in docs/performance.md, measured again in about half an hour; let nothing else run meanwhile.
benchmark: $(VENV)/.installed
	$(BIN)/python tools/performance_report.py

clean:
	rm -rf $(VENV) $(UPSTREAM) build *.egg-info

# An environment is made again from scratch when what it was made from has changed.
$(VENV)/.installed: setup.py requirements/tested.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint requirements/tested.txt --editable '.[onedl,demo,deploy,scenes,tests]'
	touch $@

$(UPSTREAM)/.installed: setup.py requirements/upstream.txt
	rm -rf $(UPSTREAM)
	$(PYTHON) -m venv $(UPSTREAM)
	$(UPSTREAM)/bin/pip install --quiet --constraint requirements/upstream.txt numpy setuptools wheel ninja psutil torch torchvision
	MMCV_WITH_OPS=1 MAX_JOBS=2 $(UPSTREAM)/bin/pip install --quiet --constraint requirements/upstream.txt --no-build-isolation mmcv
	$(UPSTREAM)/bin/pip install --quiet --constraint requirements/upstream.txt --no-build-isolation --editable '.[openmmlab,demo,scenes,tests]'
	touch $@
