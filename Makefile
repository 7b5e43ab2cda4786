# Two commands do everything: `make grid` and `make test`. Both set up .venv from requirements.lock first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# OpenMP threads that spin while they wait slow everything else on a small machine
export OMP_WAIT_POLICY := passive

# tests that time something against something carry the marker `quiet` and run one after the other
PARALLEL := -n 2 --dist loadscope

.PHONY: grid test slow gpu lint types lock audit clean

# uv does not read pip's configuration: who has set a mirror of PyPI there has it for uv too
INDEX = $(shell $(PYTHON) -m pip config list 2>/dev/null | sed -n "s/^\(:env:\|global\|install\)\.index-url='\(.*\)'/\2/p" | head -n 1)
$(VENV)/.ready lock: export UV_DEFAULT_INDEX ?= $(INDEX)

# uv comes by pip, with the lock's hash; the rest by uv, which is much faster. It compiles too, on all cores: where
# PYTHONDONTWRITEBYTECODE is set, every process would do it anew, and elsewhere the first run would, while it measures.
# .begun is there while .venv is half made: what an interruption leaves is thrown away, as uv would take a half-installed
# package for a whole one.
$(VENV)/.ready: requirements.lock setup.cfg pyproject.toml
	@if [ -e $(VENV)/.begun ]; then rm -rf $(VENV)/lib $(VENV); fi
	@mkdir -p $(VENV) && touch $(VENV)/.begun && rm -f $@
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/# via/p' requirements.lock > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	mv $(VENV)/.begun $@

# accuracy from the grid, times from cells that take turns, one answer from both
grid: $(VENV)/.ready
	$(BIN)/ablate grid --study quickstart
	$(BIN)/ablate speed --study quickstart --max-seconds 240
	$(BIN)/ablate report quickstart
	@echo "open MLflow's interface on these runs: $(BIN)/ablate ui"

test: $(VENV)/.ready
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

# in the order of their files: xdist would start the scopes with the fewest tests last, and of these those take longest
slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m "slow and not quiet" --timeout 1200 $(PARALLEL) --no-loadscope-reorder --durations 25
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

# renews both locks, versions only where setup.cfg demands it; OPTIONS=--upgrade renews them all. The image's is the part
# of the other that runs the program.
COMPILE = echo "torch>=2.14" | $(BIN)/uv pip compile setup.cfg --extra setup --extra ray --extra dashboard --extra postgres -c - \
	--universal --python-version 3.11 --no-header --generate-hashes
lock: $(VENV)/.ready
	$(COMPILE) --extra test --extra dev $(OPTIONS) -o requirements.lock
	$(COMPILE) -c requirements.lock -o docker/requirements.lock

# known vulnerabilities of what the lock pins. The database may be out of reach, or empty (of a mirror): it is asked for
# some that are known first, and where it has none of them nothing is checked, and one line says so.
AUDIT = $(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --progress-spinner off
audit: $(VENV)/.ready
	@echo "jinja2==2.4.1" > $(VENV)/known.txt
	@if $(AUDIT) --no-deps -r $(VENV)/known.txt 2>&1 | grep -q "^Found "; then $(AUDIT) --require-hashes -r requirements.lock; \
	else echo "audit: nothing was checked, the database of known vulnerabilities cannot be reached or is empty"; fi

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
