# make reproduce: set up .venv, train every method of table 1 in the quick profile, show the table.
# make test:      set up .venv, run all tests, the notebooks among them.
# make test-long: the long forms of the reliability tests, which write results/reliability.csv.
PYTHON ?= python3
PROFILE ?= quick
BIN := .venv/bin

.PHONY: reproduce test test-long lab clean
.venv/ready: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else 'this project needs Python 3.11 or 3.12; name one with make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	@echo "installing into .venv: a few minutes, once"
	$(BIN)/pip install --quiet --disable-pip-version-check --prefer-binary --editable .
	touch $@

reproduce: .venv/ready
	$(BIN)/python -m pslib reproduce $(PROFILE)

test: .venv/ready
	$(BIN)/python -m pytest --durations=10
	$(BIN)/python -m pytest --nbval-lax notebooks --nbval-cell-timeout=300

test-long: .venv/ready
	$(BIN)/python -m pytest tests/long --durations=10

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf .venv results/local
