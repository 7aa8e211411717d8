# Every target is one line in `make help`. `make score` and `make test` set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FILES ?= spaces_demo/samples
FUZZ_SECONDS ?= 300
TINY := modeling_apex/pretrained/apex-tiny
# The versions that CI runs on; `make setup LOCK=` takes the newest that pyproject.toml allows instead.
LOCK ?= requirements-ci.lock
PINS := -c constraints.txt $(if $(LOCK),-c $(LOCK))
# Whole files of tests side by side, since their fixtures are made once a file; more than four at once want much memory.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile
# `$(WITH)NAMES` stands for an installation with these extras: a target installs what it needs and no more.
WITH := $(VENV)/.installed-with-
ALL := $(WITH)dev

.DEFAULT_GOAL := help
.PHONY: help setup score test test-slow bench formats hostile fuzz faults mutation statistics robustness readme tiny tiny-arena presets compare demo card quality style docs release-check \
  lock licenses wheel sbom clean

help: ## List every target with one line
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(ALL) ## Create the virtual environment and install the package with all extras

$(VENV)/.torch-done: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	@touch $@

$(WITH)%: $(VENV)/.torch-done pyproject.toml $(LOCK)
	$(BIN)/python -m pip install --quiet $(PINS) -e ".[$*]"
	@touch $@

score: $(WITH)audio ## Score the sample songs, or your own: make score FILES="a.mp3 b.wav"
	$(BIN)/apex-music score $(FILES)

test: $(WITH)test ## Run the tests (offline, CPU)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-slow: $(WITH)test ## Run the tests at full model size as well
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "slow or not slow"

bench: $(ALL) ## Run the benchmarks on a quiet machine (on any: BUSY=--busy) and write their results to tests/benchmarks/results
	$(BIN)/python tests/benchmarks/compare_resamplers.py $(BUSY)
	$(BIN)/python tests/benchmarks/bench_decoding.py --output tests/benchmarks/results/decoding.json $(BUSY)
	$(BIN)/python tests/benchmarks/bench_scoring.py $(BUSY)
	$(BIN)/python tests/benchmarks/bench_corpus.py $(BUSY)
	$(BIN)/python tests/benchmarks/bench_space.py $(BUSY)
	$(BIN)/python tests/benchmarks/bench_heads.py --songs 211000 --output tests/benchmarks/results/heads.json $(BUSY)
	$(BIN)/python tests/benchmarks/measure_build_memory.py 100000 1000000 10000000 --output tests/benchmarks/results/build_memory.json $(BUSY)
	$(BIN)/python tests/benchmarks/measure_import.py --output tests/benchmarks/results/import.json $(BUSY)
	$(BIN)/python tests/benchmarks/measure_leaks.py --songs 10000 --output tests/benchmarks/results/leaks.json $(BUSY)
	$(BIN)/python tests/benchmarks/measure_cold_start.py --output tests/benchmarks/results/cold_start.json $(BUSY)
	$(BIN)/python tests/benchmarks/compare_read_ahead.py --output tests/benchmarks/results/read_ahead.json $(BUSY)
	$(BIN)/python tests/benchmarks/bench_engines.py --output tests/benchmarks/results/engines.json $(BUSY)
	$(BIN)/python tests/benchmarks/bench_gpu.py --output tests/benchmarks/results/gpu.json $(BUSY)
	$(BIN)/python tests/benchmarks/bench_songeval.py --output tests/benchmarks/results/songeval.json $(BUSY)
	$(BIN)/python tests/benchmarks/bench_rewards.py --output tests/benchmarks/results/rewards.json $(BUSY)
	$(BIN)/python tests/benchmarks/bench_embed_processes.py --output tests/benchmarks/results/embed_processes.json $(BUSY)
	$(BIN)/python tests/benchmarks/bench_score_processes.py --output tests/benchmarks/results/score_processes.json $(BUSY)
	$(BIN)/python tests/benchmarks/update_readme.py

formats: $(WITH)test ## Read every format that the ffmpeg of this machine writes (an hour) and write what differs
	$(BIN)/python tests/benchmarks/format_corpus.py --output tests/benchmarks/results/formats.json

hostile: $(WITH)test ## Run the corpus of bad audio files (some minutes) and write its counts
	$(BIN)/python tests/benchmarks/hostile_audio.py --output tests/benchmarks/results/hostile_audio.json

fuzz: $(ALL) $(WITH)fuzz ## Fuzz the way from bytes to features for FUZZ_SECONDS (300)
	$(BIN)/python tests/fuzz/run_fuzz.py --seconds $(FUZZ_SECONDS) --output tests/benchmarks/results/fuzz.json

faults: $(ALL) ## Kill and stop every command that writes fifty times each and compare what is left
	$(BIN)/python tests/benchmarks/kill_runs.py --kills 50 --output tests/benchmarks/results/kills.json

mutation: $(ALL) $(WITH)mutation ## Mutate audio, losses, metrics and targets, and count which mutants the tests notice
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 1
	$(BIN)/python tests/benchmarks/report_mutation.py --output tests/benchmarks/results/mutation.json

statistics: $(ALL) ## Simulate what intervals, tests and percentiles promise (resumable)
	$(BIN)/python tests/benchmarks/simulate_statistics.py --output tests/benchmarks/results/statistics.json
	$(BIN)/python tests/benchmarks/measure_uncertainty.py
	$(BIN)/python tests/benchmarks/simulate_selection.py
	$(BIN)/python tests/benchmarks/simulate_cluster.py --output tests/benchmarks/results/cluster.json
	$(BIN)/python tests/benchmarks/distil.py

robustness: $(ALL) ## Measure what a song's file does to the scores of apex-tiny
	$(BIN)/python -m datasets_scripts.build synthetic --layout factors --num-songs 40 --seconds 30 --seed 17 --sampling-rate 44100 \
	  --num-channels 2 --output runs/robustness-songs
	$(BIN)/apex-music robustness $(TINY) runs/robustness-songs/audio --output $(TINY)/robustness --overwrite --device cpu

readme: $(ALL) ## Write the tables of README.md and docs from the result files
	$(BIN)/python tests/benchmarks/update_readme.py

tiny: $(ALL) ## Train the embedded demonstration model anew (up to 90 minutes on two cores)
	$(BIN)/python -m modeling_apex.training.tiny

tiny-arena: $(ALL) ## Judge the embedded model on synthetic battles; fits its preference head
	$(BIN)/apex-music build synthetic --layout music-arena --num-songs 800 --seconds 20 --output runs/battles-raw
	$(BIN)/apex-music build music-arena --source runs/battles-raw --output runs/battles
	$(BIN)/apex-music arena runs/battles --model $(TINY) --truth runs/battles-raw/truth.jsonl \
	  --output $(TINY)/arena --save-head-to $(TINY)

demo: $(WITH)audio,demo ## Serve the Space on this machine
	$(BIN)/apex-music demo

presets: $(ALL) ## Compare the training presets on synthetic songs embedded by apex-tiny
	$(BIN)/apex-music build synthetic --layout training --num-songs 1600 --seconds 20 --seed 5 --output runs/presets-world
	$(BIN)/apex-music build training --source runs/presets-world/metadata.jsonl runs/presets-world/audio \
	  --labels runs/presets-world/pseudo_labels.jsonl --label-source synthetic --split-method quota --splits 60:15:25 --output runs/presets-songs
	$(BIN)/apex-music embed runs/presets-songs --model $(TINY) --output runs/presets-embeddings
	$(BIN)/python tests/benchmarks/compare_presets.py runs/presets-embeddings --output tests/benchmarks/results/presets.json

compare: $(ALL) ## Compare APEX heads, the fused CNN, its branches and gradient boosting (about half an hour)
	$(BIN)/python tests/benchmarks/compare_models.py --output tests/benchmarks/results/models.json
	$(BIN)/python tests/benchmarks/update_readme.py

card: $(WITH)hub ## Render the full model card of apex-tiny from its result files to build/card
	$(BIN)/apex-music card --model $(TINY) --output build/card \
	  $(if $(wildcard $(TINY)/arena/results.json),,--no-arena-because "no battles were scored with the embedded model.")

quality: $(ALL) ## Lint, format check and type check; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(ALL) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(WITH)docs ## Build the documentation as a website in build/docs; nothing is fetched, a warning is an error
	HF_HUB_OFFLINE=1 $(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs

lock: $(ALL) $(WITH)release ## Pin the newest versions that pyproject.toml allows, for CI; torch stays in constraints.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra release --extra mutation --extra fuzz --python-version 3.11 \
	  --constraints constraints.txt --no-emit-package torch --no-annotate --custom-compile-command "make lock" \
	  $(LOCK_OPTIONS) --output-file requirements-ci.lock

licenses: $(ALL) ## Report the licence of every dependency; fails on one that is not allowed
	$(BIN)/python tests/benchmarks/report_licenses.py --output tests/benchmarks/results/licenses.json

release-check: $(ALL) $(WITH)release ## Check what a release needs: version, both sets of dependencies, docs, licences, SBOM, the wheel by itself
	$(BIN)/python -m pytest --quiet --tb=line tests/test_release.py
	@if grep -n "(unreleased)" CHANGELOG.md; then echo "CHANGELOG.md: give the newest version its date"; exit 1; fi
	@mkdir -p build
	$(BIN)/uv pip compile pyproject.toml --extra all --python-version 3.11 --resolution lowest-direct --quiet --output-file build/lowest.txt
	$(BIN)/uv pip compile pyproject.toml --extra all --python-version 3.13 --resolution highest --quiet --output-file build/newest.txt
	$(MAKE) docs
	$(MAKE) licenses
	$(MAKE) sbom
	cd build && HF_HUB_OFFLINE=1 installation/bin/apex-music env
	cd build && HF_HUB_OFFLINE=1 installation/bin/apex-music score ../spaces_demo/samples
	@echo "release-check: all is there for the release of $$($(BIN)/apex-music --version)"

wheel: $(ALL) $(WITH)release ## Build the wheel and the source archive into dist
	$(BIN)/python -m build --no-isolation --outdir dist

sbom: wheel ## List what an installation of the wheel with all extras consists of, as CycloneDX, in build/sbom.json
	$(PYTHON) -m venv --clear build/installation
	build/installation/bin/python -m pip install --quiet -c constraints.txt torch
	build/installation/bin/python -m pip install --quiet $(PINS) \
	  "apex-music[all] @ file://$$(ls -t $(CURDIR)/dist/*.whl | head -n 1)"
	$(BIN)/cyclonedx-py environment build/installation/bin/python --pyproject pyproject.toml --output-reproducible \
	  --output-file build/sbom.json

clean: ## Remove the virtual environment, caches and build outputs
	rm -rf $(VENV) build dist mutants *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
