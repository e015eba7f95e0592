# make demo   install flashc in .venv, tune an attention kernel for an A100 (none needed), verify it on this machine
# make test   install what the tests need and run them all
# make gpu    check and time the Triton backend on this machine's NVIDIA GPU, in under 8 minutes
PYTHON ?= python3
OLDEST_TRITON := 3.6.0
PYTHON_VERSIONS := 3.10 3.11 3.12 3.13
PYTEST_FLAGS ?= -n auto --maxprocesses 8 --dist worksteal

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest -rs $(PYTEST_FLAGS)
TRITON_OVERLAY := .venv/triton-$(OLDEST_TRITON)

.PHONY: demo test fast lint gpu clean

demo: .venv/installed
	$(BIN)/flashc tune --device a100 examples/attention.yaml
	$(BIN)/flashc verify examples/attention.yaml

test: .venv/installed-test $(TRITON_OVERLAY)/installed
	$(PYTEST)
	PYTHONPATH=$(CURDIR)/$(TRITON_OVERLAY) $(PYTEST) -m "triton and not slow"

fast: .venv/installed-test
	$(PYTEST) -m "not slow"

lint: .venv/installed-lint
	$(BIN)/ruff check .
	@set -e; for version in $(PYTHON_VERSIONS); do \
	  echo "mypy --strict --python-version $$version"; \
	  $(BIN)/mypy --strict --python-version $$version; \
	done

gpu: .venv/installed-gpu
	$(BIN)/flashc bench --suite gpu --output benchmarks/results

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Each stamp is written last, so an interrupted install is done again; pyproject.toml is what invalidates it.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --editable .
	touch $@

# A CUDA build of torch pins an older Triton, hence the upgrade.
.venv/installed-test: .venv/installed
	$(PIP) install --editable '.[test]'
	$(PIP) install --upgrade triton
	touch $@

.venv/installed-gpu: .venv/installed
	$(PIP) install --editable '.[torch]'
	touch $@

.venv/installed-lint: .venv/installed
	$(PIP) install --editable '.[lint]'
	touch $@

# The oldest supported Triton beside the newest one, for the fast tests: a folder ahead of .venv on the path.
$(TRITON_OVERLAY)/installed: .venv/installed-test
	rm -rf $(TRITON_OVERLAY)
	$(PIP) install --no-deps --target $(TRITON_OVERLAY) triton==$(OLDEST_TRITON)
	touch $@
