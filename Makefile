# Both targets set themselves up from nothing but python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Networks of this size are faster on one thread, and NumPy's and torch's thread pools fight for the cores.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help quickstart test test-slow test-lowest test-browser coverage lint format bench results results-small docs clean

help:
	@echo "make quickstart      compare GEM, p-mGEM and d-mGEM over three seeds on scikit-learn's digits"
	@echo "make test            lint, types, layers and tests"
	@echo "make test-slow       the slow tests: launchers, kills, ranks, every strategy cut and continued, compiled ResNets"
	@echo "make test-browser    a report in a real browser, which must be installed (Debian: apt-get install chromium)"
	@echo "make test-lowest     the tests with the oldest releases that are allowed (tests/lowest.txt)"
	@echo "make coverage        the tests with their coverage, which takes half as long again"
	@echo "make lint            lint, types and layers only"
	@echo "make format          format the code"
	@echo "make bench           speed and memory beside stock Avalanche, into docs/performance.md (DATASET_ROOT=DIR)"
	@echo "make results         the evidence runs, for hours, and their tables and figures (EVIDENCE=\"q1 ...\", DATASET_ROOT=DIR)"
	@echo "make results-small   the tables and figures of docs/results, from the runs that are kept"
	@echo "make docs            the documentation as a site, into docs/_build"
	@echo "make clean           remove the virtual environment and caches"

quickstart: $(VENV)/installed
	$(BIN)/mgem -m strategy=gem,pmgem,dmgem seed=0,1,2 benchmark=permuted_digits

PYTEST := $(BIN)/pytest --numprocesses 2 --dist worksteal

test: lint
	$(PYTEST) -m "not slow and not browser"

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m slow

test-browser: $(VENV)/installed-dev
	$(BIN)/pytest -m browser tests/report/test_browser.py

# The oldest releases that pyproject.toml allows, in an environment of their own.
test-lowest:
	PIP_CONSTRAINT=tests/lowest.txt $(MAKE) VENV=.venv-lowest .venv-lowest/installed-dev
	.venv-lowest/bin/pytest --numprocesses 2 --dist worksteal -m "not slow and not browser"

coverage: $(VENV)/installed-dev
	$(PYTEST) -m "not browser" --cov avalanche_mgem --cov-report term:skip-covered --cov-fail-under 90

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# DATASET_ROOT holds MNIST and CIFAR-100; ROWS="step_gem_mlp g_to_z" measures these only.
DATASET_ROOT ?= ~/.avalanche
bench: $(VENV)/installed
	$(BIN)/python -m bench --dataset-root $(DATASET_ROOT) $(if $(ROWS),--only $(ROWS))

# The runs of docs/results/plan.md: hours. What is complete is kept, so the same command goes on.
EVIDENCE ?= q1
results: $(VENV)/installed
	for name in $(EVIDENCE); do \
	    $(BIN)/mgem -m experiment=evidence/$$name dataset_root=$(DATASET_ROOT) hydra/launcher=parallel \
	        && rm -f docs/results/runs/evidence/$$name.tar.gz \
	        && $(BIN)/mgem-report runs/evidence/$$name --pack docs/results/runs/evidence/$$name.tar.gz || exit; \
	done
	$(MAKE) results-small

# The tables and figures of docs/results, from the runs that are kept there: minutes. RUNS_name has the archives of a
# report that is not that of one archive, and OPTIONS_name its options. Other work ran beside all of these runs but those
# of ALONE, so that the seconds of the others measure nothing.
ALONE := q4_price
REPORTS := q1 q1_rotated q2 q2_modules q2_groups q2_groups_16 q3_permuted q3_permuted_budget q3_rotated \
    q3_split_cifar100 q3_digit_domains \
    q4 q4_equal q4_price q5 q5_pulled q5_pull q6_modules q6_groups q6_solver q7_long q7_tuned_50 \
    q7_mlp q7_lenet5
# Question 2: modules and groups as the knob, beside as many values of gamma.
RUNS_q2 := q2_gamma
RUNS_q2_modules := q2_gamma q2_modules
OPTIONS_q2_modules := --front memory_strength,num_modules --baseline gem --where strategy=gem,pmgem \
    strategy.memory_strength=0,0.05,0.2
RUNS_q2_groups := q2_gamma q2_groups
OPTIONS_q2_groups := --front memory_strength,num_groups --baseline gem --where strategy=gem,dmgem \
    strategy.memory_strength=0,0.02,0.1,0.5 strategy.num_groups=1,2,3,4,8
# The follow-up with 16 groups, and a fifth value of gamma.
RUNS_q2_groups_16 := q2_gamma q2_groups
OPTIONS_q2_groups_16 := --front memory_strength,num_groups --baseline gem --where strategy=gem,dmgem \
    strategy.memory_strength=0,0.02,0.1,0.5,1
# Question 3 compares all pairs of what was tuned.
TUNED := best_gem,best_pmgem,best_dmgem,best_replay,best_er_gem,best_er_ace,best_derpp,best_ewc
OPTIONS_q3_permuted := --baseline all --where strategy=$(TUNED)
RUNS_q3_rotated := q3_rotated q3_rotated_finer
OPTIONS_q3_rotated := --baseline all
TUNED_ELSEWHERE := best_gem,best_pmgem,best_dmgem,best_gem_budget,best_replay,best_er_gem
OPTIONS_q3_split_cifar100 := --baseline all --where strategy=$(TUNED_ELSEWHERE),replay_second
OPTIONS_q3_digit_domains := --baseline all --where strategy=$(TUNED_ELSEWHERE),best_derpp
RUNS_q3_permuted_budget := q3_permuted q3_permuted_budget
OPTIONS_q3_permuted_budget := --baseline all --where strategy=$(TUNED),gem_budget,dmgem_budget,gem_shared,replay_256
# Question 4, as far as it is complete: samples a step, each number against the whole memory, which is in question 1.
RUNS_q4 := q1 q4_constraints q4_replay
OPTIONS_q4 := --over patterns_per_step,batch_size_mem --baseline patterns_per_step=null --where strategy=gem,replay \
    strategy.memory_strength=0,0.1,absent strategy.plugins.replay.batch_size_mem=10,32,64,256,absent
# The same at equal samples a step.
RUNS_q4_equal := q4_constraints q4_replay
OPTIONS_q4_equal := --baseline all --where strategy=gem,replay strategy.memory_strength=0.1,absent \
    strategy.patterns_per_step=64,256,absent strategy.plugins.replay.batch_size_mem=64,256,absent
# The seconds of steps.
OPTIONS_q4_price := --over patterns_per_step,batch_size_mem
# Question 5: samples kept of each experience, beside gem at equal size, at gamma 0 and at 0.1; and what the pull does to gem.
MEMORY := --over patterns_per_exp --front patterns_per_exp
RUNS_q5 := q2_gamma q5_constraints
OPTIONS_q5 := $(MEMORY) --where strategy.memory_strength=0
RUNS_q5_pulled := q2_gamma q5_constraints
OPTIONS_q5_pulled := $(MEMORY) --where strategy.memory_strength=0.1
RUNS_q5_pull := q2_gamma q5_constraints
OPTIONS_q5_pull := $(MEMORY) --baseline memory_strength=0 --where strategy=gem strategy.memory_strength=0,0.1
# Question 6, without a pull: each structure beside others of its number.
RUNS_q6_modules := q2_gamma q2_modules q6_modules
OPTIONS_q6_modules := --baseline all --where strategy=pmgem strategy.memory_strength=0
RUNS_q6_groups := q2_gamma q2_groups q6_groups q6_label
OPTIONS_q6_groups := --baseline grouping=random --where strategy=dmgem strategy.memory_strength=0,0.1,0.5 strategy.num_groups=2,4
RUNS_q6_solver := q2_gamma q6_solver
OPTIONS_q6_solver := --baseline solver=exact --where strategy.memory_strength=0
OPTIONS_q7_tuned_50 := --baseline best_gem
# One network a report.
RUNS_q7_mlp := q7_networks
OPTIONS_q7_mlp := --where model._target_=avalanche.models.SimpleMLP
RUNS_q7_lenet5 := q7_networks
OPTIONS_q7_lenet5 := --where model._target_=avalanche.models.LeNet5
results-small: $(VENV)/installed $(addprefix report-,$(REPORTS))
	$(BIN)/mgem-report docs/results/runs/gem_protocol/permuted_mnist --output docs/results/gem_protocol_permuted_mnist
	$(BIN)/mgem-report docs/results/runs/pareto/permuted_mnist --output docs/results/pareto_permuted_mnist

report-%: $(VENV)/installed
	$(BIN)/mgem-report $(foreach name,$(or $(RUNS_$*),$*),docs/results/runs/evidence/$(name).tar.gz) \
	    --output docs/results/evidence/$* $(if $(filter $*,$(ALONE)),,--busy) $(OPTIONS_$*)

# Every warning is an error. The examples run, and their pages have what they print.
docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build -W --keep-going --quiet docs docs/_build
	@echo "docs/_build/index.html"

clean:
	rm -rf .venv* docs/_api docs/_build docs/_examples .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "avalanche-mgem needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV); torch is large, the first time takes some minutes."
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV); torch is large, the first time takes some minutes."
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV); torch is large, the first time takes some minutes."
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/installed
