# Every target is one line in `make help`. `make score` and `make test` set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FILES ?= spaces_demo/samples
TINY := modeling_apex/pretrained/apex-tiny
STAMP := $(VENV)/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup score test test-slow bench readme tiny tiny-arena presets compare demo card quality style clean

help: ## List every target with one line
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Create the virtual environment and install the package with all extras

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

score: setup ## Score the sample songs, or your own: make score FILES="a.mp3 b.wav"
	$(BIN)/apex-music score $(FILES)

test: setup ## Run the tests (offline, CPU)
	$(BIN)/python -m pytest

test-slow: setup ## Run the tests at full model size as well
	$(BIN)/python -m pytest -m "slow or not slow"

bench: setup ## Run the benchmarks and write their results to tests/benchmarks/results
	$(BIN)/python tests/benchmarks/compare_resamplers.py
	$(BIN)/python tests/benchmarks/bench_heads.py --songs 211000 --output tests/benchmarks/results/heads.json
	$(BIN)/python tests/benchmarks/measure_build_memory.py 100000 1000000 > tests/benchmarks/results/build_memory.json
	$(BIN)/python tests/benchmarks/update_readme.py

readme: setup ## Write the tables of README.md from the result files
	$(BIN)/python tests/benchmarks/update_readme.py

tiny: setup ## Train the embedded demonstration model anew (up to 90 minutes on two cores)
	$(BIN)/python -m modeling_apex.training.tiny

tiny-arena: setup ## Judge the embedded model on synthetic battles; fits its preference head
	$(BIN)/python -m datasets_scripts.build synthetic --layout music-arena --num-songs 800 --seconds 20 --output runs/battles-raw
	$(BIN)/python -m datasets_scripts.build music-arena --source runs/battles-raw --output runs/battles
	$(BIN)/apex-music arena runs/battles --model $(TINY) --truth runs/battles-raw/truth.jsonl --drop-rare-systems \
	  --output $(TINY)/arena --save-head-to $(TINY)

demo: setup ## Serve the Space on this machine
	$(BIN)/python -m spaces_demo.app

presets: setup ## Compare the training presets on synthetic songs embedded by apex-tiny
	$(BIN)/python -m datasets_scripts.build synthetic --layout training --num-songs 1600 --seconds 20 --seed 5 --output runs/presets-world
	$(BIN)/python -m datasets_scripts.build training --source runs/presets-world/metadata.jsonl runs/presets-world/audio \
	  --labels runs/presets-world/pseudo_labels.jsonl --label-source synthetic --split-method quota --splits 60:15:25 --output runs/presets-songs
	$(BIN)/apex-music embed runs/presets-songs --model $(TINY) --output runs/presets-embeddings
	$(BIN)/python tests/benchmarks/compare_presets.py runs/presets-embeddings --output tests/benchmarks/results/presets.json

compare: setup ## Compare APEX heads, the fused CNN, its branches and gradient boosting (about half an hour)
	$(BIN)/python tests/benchmarks/compare_models.py --output tests/benchmarks/results/models.json
	$(BIN)/python tests/benchmarks/update_readme.py

card: setup ## Render the full model card of apex-tiny from its result files to build/card
	$(BIN)/python -m hub_card.build_card --model $(TINY) --output build/card \
	  $(if $(wildcard $(TINY)/arena/results.json),,--no-arena-because "no battles were scored with the embedded model.")

quality: setup ## Lint, format check and type check; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: setup ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment, caches and build outputs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
