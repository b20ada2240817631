# One .venv for everything. `make test`, `make check` and `make demo` make it when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
EXTRAS := engine,plan,train,watch,video,discovery,demo,test,dev
# Where torch comes from. Empty: without an NVIDIA GPU the index of builds for CPUs, if it answers within seconds, else
# pip's own index, whose build for Linux brings CUDA, several GB. Another index, such as one for another CUDA:
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cu126
TORCH_INDEX ?=
WORKERS ?= 2
PYTEST_ARGS ?=

.PHONY: help install demo test test-all check format bench report clean

help:
	@echo "install   make $(VENV) with everything in it (once)"
	@echo "demo      train, compare, deploy on four local workers, from nothing"
	@echo "test      the test suite without its slow part, and which ten tests took longest"
	@echo "test-all  the whole test suite"
	@echo "check     lint, format and types"
	@echo "format    rewrite the code in the project's format"
	@echo "bench     the benchmarks, quick"
	@echo "report    the published figures, from what is committed"
	@echo "clean     remove what the tools wrote; $(VENV) and runs/ stay"

install: $(STAMP)

# torch first: later, among the other packages, the resolver could take another build of it. What it needs comes with
# the rest, from pip's own index: the index of torch may lack the versions that constraints.txt pins.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  f"make needs Python 3.11 or later, found {sys.version.split()[0]}: make install PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@set -e; started=$$(date +%s); \
	  index=$$($(PYTHON) tools/torch_index.py --given "$(TORCH_INDEX)"); \
	  echo "installing into $(VENV): 2 to 5 minutes on a common line, longer with CUDA"; set -x; \
	  $(PIP) install --quiet --constraint constraints.txt --no-deps $${index:+--index-url "$$index"} torch; \
	  $(PIP) install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'; \
	  { set +x; } 2>/dev/null; echo "installed in $$(($$(date +%s) - started)) s"
	touch $@

demo: install
	$(BIN)/python experiments/demo.py

test: install
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" --durations=10 $(PYTEST_ARGS)

test-all: install
	$(BIN)/python -m pytest -n $(WORKERS) --hypothesis-profile=explore --durations=10 $(PYTEST_ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	@set -e; for script in experiments/bench/[!_]*.py; do \
	  test -e $$script || continue; \
	  echo "== $$script"; $(BIN)/python $$script --quick; done

report: install
	@set -e; for script in experiments/[!_]*.py; do \
	  case $$script in experiments/demo.py | "experiments/[!_]*.py") continue ;; esac; \
	  echo "== $$script"; $(BIN)/python $$script --quick; done

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find distredge/ envs agents profiles experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
