# Two commands: `make book` (set up, run every notebook, build the HTML book) and `make test`, which
# also opens the viewers and, once it is built, every page of the book in a browser if there is one.
#   PYTHON=python3.12   another interpreter for the environment
#   VENV=path           use an environment of yours as it is; nothing is installed into it
#   JOBS=4              notebooks and test workers at the same time
#   FULL=1              the long run of the notebooks (GPU) instead of the fast one
PYTHON ?= python3
JOBS ?= 2
ifeq ($(origin VENV), undefined)
VENV := .venv
STAMP := $(VENV)/.installed
endif
PY := $(VENV)/bin/python
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
export OMP_NUM_THREADS ?= 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: setup book notebooks html test test-lib test-notebooks test-book lint benchmarks serve clean
.DEFAULT_GOAL := book

setup: $(STAMP)
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  torch==2.13.0 -e '.[book,itk,test,classical]'
	$(PY) -m pip check
	$(PY) -m regnet_lib.viewers.itk
	touch $@

book: $(STAMP)
	$(PY) -m tools.build_book --jobs $(JOBS) $(if $(FULL),--full)
notebooks: $(STAMP)
	$(PY) -m tools.build_book --jobs $(JOBS) --only notebooks $(if $(FULL),--full)
html: $(STAMP)
	$(PY) -m tools.build_book --only html

test: test-lib test-notebooks test-book lint
test-lib: $(STAMP)
	$(PY) -m pytest -q -n $(JOBS) --jaxtyping-packages=regnet_lib,beartype.beartype \
	  --ignore=tests/browser tests
test-notebooks: $(STAMP)
	$(if $(NOTEBOOKS),$(PY) -m pytest -q -n $(JOBS) --dist loadscope --nbval-lax --nbval-current-env \
	  $(NOTEBOOKS),@echo "no notebooks to test")
test-book: $(STAMP)
	$(PY) -m pytest -q -rs -n $(JOBS) tests/browser
lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# Compares with what is installed of the extra `peers`; then the page of the book.
benchmarks: $(STAMP)
	$(PY) -m benchmarks.run
	$(PY) -m tools.benchmark_page

serve: $(STAMP)
	$(PY) -m http.server 8000 --bind 127.0.0.1 --directory _build/html
clean:
	rm -rf _build
