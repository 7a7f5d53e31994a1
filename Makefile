# A convenience: the README's two commands need only Python and git.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test check bench torture

$(BIN)/pytest: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

demo: $(BIN)/pytest  ## run the main job against the simulator
	$(BIN)/runner run jobs/classify_tickets.yaml --provider sim

test: $(BIN)/pytest  ## everything that CI runs
	$(BIN)/pytest

check: $(BIN)/pytest  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BIN)/pytest  ## what it costs: start-up, ingest, export, calls
	$(BIN)/python tests/bench

torture: $(BIN)/pytest  ## kills and full disks, for longer than CI does, and ten million histories of a submission
	RUNNER_KILLS=500 $(BIN)/pytest tests/e2e/test_torture.py tests/e2e/test_torture_packs.py
	RUNNER_KILLS=500 RUNNER_CROWDS=100 $(BIN)/pytest tests/e2e/test_batch_kills.py tests/e2e/test_batch_cron.py
	RUNNER_HISTORIES=10000000 $(BIN)/pytest --dist=load tests/unit/test_submission.py tests/unit/test_submitting.py
