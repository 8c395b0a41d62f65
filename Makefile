# make demo           set-up, data, training, test, predictions and speed
# make globe          the Earth in one pass: data, score and picture; trains the model first where weights/earth has none,
#                     and with TRAIN=1
# make test           set-up, lint and all tests
# make test-upstream  all tests on the upstream OpenMMLab packages
# make lint, format   ruff and mypy; ruff's fixes
# make docs           build the documentation as a site, into build/site
# make benchmark      measure docs/performance.md again
# make clean          remove the environments
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UPSTREAM := .venv-upstream
# Two files at a time on one thread each: the threads of several processes would compete for the cores.
PYTEST_ENV := OMP_NUM_THREADS=1
PYTEST_ARGS := --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10
# Separate processes: training after OpenVINO in the same process ended in a segmentation fault.
EXPORTING := tests/test_benchmark.py tests/test_deploy.py tests/test_image_demo.py

GLOBE := work_dirs/globe
EARTH := $(if $(TRAIN),,$(wildcard weights/earth/*.safetensors))
EARTH_CONFIG := configs/vittm/vittm-6x96_20-cells-15_pixel-shuffle-regions-concat_1xb1-windows_earth-2700x5400.py

.PHONY: demo globe test test-upstream docs benchmark lint format clean
demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py

globe: $(VENV)/.installed
	$(BIN)/python tools/dataset_converters/blue_marble_scene.py
	$(if $(EARTH),,$(BIN)/python tools/train.py $(EARTH_CONFIG) --work-dir $(GLOBE))
	model=$(or $(EARTH),$$(cat $(GLOBE)/last_checkpoint)) && \
	$(BIN)/python tools/test.py $(EARTH_CONFIG) $$model --work-dir $(GLOBE) --out $(GLOBE)/predictions && \
	$(BIN)/python tools/earth.py $(EARTH_CONFIG) $(GLOBE)/predictions --out $(GLOBE)/earth.png

test: lint
	$(PYTEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS) $(EXPORTING)
	$(PYTEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS) $(addprefix --ignore=,$(EXPORTING))

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed
	$(BIN)/python tools/model_zoo.py
	$(BIN)/python tools/study_answers.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Compiles mmcv, which takes about ten minutes.
test-upstream: $(UPSTREAM)/.installed
	$(PYTEST_ENV) $(UPSTREAM)/bin/python -m pytest $(PYTEST_ARGS) $(EXPORTING)
	$(PYTEST_ENV) $(UPSTREAM)/bin/python -m pytest $(PYTEST_ARGS) $(addprefix --ignore=,$(EXPORTING))

# Run nothing else meanwhile; an interrupted run continues.
benchmark: $(VENV)/.installed
	$(BIN)/python tools/performance_report.py

clean:
	rm -rf $(VENV) $(UPSTREAM) build *.egg-info .mypy_cache .pytest_cache .ruff_cache

# An environment is updated when its requirements change; `make clean` first for a fresh one.
$(VENV)/.installed: pyproject.toml requirements/tested.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint requirements/tested.txt --editable '.[onedl,demo,deploy,scenes,tests,docs]'
	touch $@

$(UPSTREAM)/.installed: pyproject.toml requirements/upstream.txt
	test -x $(UPSTREAM)/bin/pip || $(PYTHON) -m venv $(UPSTREAM)
	$(UPSTREAM)/bin/pip install --quiet --constraint requirements/upstream.txt numpy setuptools wheel ninja psutil torch torchvision
	MMCV_WITH_OPS=1 MAX_JOBS=2 $(UPSTREAM)/bin/pip install --quiet --constraint requirements/upstream.txt --no-build-isolation mmcv
	$(UPSTREAM)/bin/pip install --quiet --constraint requirements/upstream.txt --no-build-isolation --editable '.[openmmlab,demo,scenes,tests]'
	touch $@
