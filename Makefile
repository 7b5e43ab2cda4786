# Two commands do everything: `make grid` and `make test`. Both set up .venv from requirements.lock first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# OpenMP threads that spin while they wait slow everything else on a small machine
export OMP_WAIT_POLICY := passive

# tests that time something against something carry the marker `quiet` and run one after the other
PARALLEL := -n 2 --dist loadscope

.PHONY: grid test slow gpu lint types lock clean

$(VENV)/.ready: requirements.lock setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

grid: $(VENV)/.ready
	$(BIN)/ablate grid --study quickstart
	@echo "open MLflow's interface on these runs: $(BIN)/ablate ui"

test: $(VENV)/.ready
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

# in the order of their files: xdist would start the scopes with the fewest tests last, and of these those take longest
slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m "slow and not quiet" --timeout 1200 $(PARALLEL) --no-loadscope-reorder
	$(BIN)/python -m pytest -m "slow and quiet" --timeout 1200

# everything that needs a GPU, in ten minutes; DEVICE=cpu rehearses it, STAGES=smoke,paper32 chooses
DEVICE ?= cuda
gpu: $(VENV)/.ready
	$(BIN)/python experiments/gpu/run.py --device $(DEVICE)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

lock:
	$(BIN)/python -m pip install --quiet uv
	echo "torch>=2.14" | $(BIN)/uv pip compile setup.cfg --extra test --extra dev --extra ray --extra dashboard --extra postgres -c - --universal \
		--python-version 3.11 --no-header --index-strategy unsafe-best-match -o requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
