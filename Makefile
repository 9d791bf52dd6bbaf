# Every target works on a fresh clone and first makes everything it needs. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Speech for the tests and the demo; built once, kept in WHISPERLAB_CACHE (default ~/.cache/whisperlab).
CORPORA := ivr-five ivr-en-es
MODEL := base
REPORTS := reports
HOURS ?= 3
A ?= HEAD~1
B ?= HEAD
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
PYTEST := $(BIN)/python -m pytest
# Packages without a wheel are built by the pinned setuptools: an isolated build would fetch its tools unchecked.
PIP_INSTALL := $(BIN)/python -m pip install --no-deps --require-hashes --no-build-isolation --disable-pip-version-check

say = @printf '\033[1m==> %s\033[0m\n' "$(1)"

.PHONY: help demo demo-full lab test test-long lint notebooks bench soak compare-revisions fuzz sbom pins clean environment weights speech browser
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## set-up, real weights and speech, the first reports in about five minutes: writes reports/index.html
	@echo "make demo: set-up, quickstart, cache keys, own recording. About 5 minutes; the first time also downloads 2 GB."
	@started=$$(date +%s); $(MAKE) --no-print-directory environment && \
		$(BIN)/python -m benchmarks.demo --reports $(REPORTS) --set-up-s $$(($$(date +%s) - started))

demo-full: ## the demo with every notebook and a larger sweep (about half an hour)
	@echo "make demo-full: set-up, a larger sweep, every notebook. About half an hour; the first time also downloads 2 GB."
	@started=$$(date +%s); $(MAKE) --no-print-directory environment && \
		$(BIN)/python -m benchmarks.demo --full --reports $(REPORTS) --set-up-s $$(($$(date +%s) - started))

lab: environment weights speech ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir notebooks

test: environment lint browser weights speech ## lint, types and tests of everything, in two processes (about 10 minutes)
	$(call say,tests)
	@$(PYTEST) -n 2 --dist worksteal --doctest-modules whisperlab tests

test-long: environment browser weights speech ## what `make test` does little of, at length: faults, fuzzing, long streams (hours)
	$(call say,tests at length)
	@$(PYTEST) -m slow --timeout 7200 tests

lint: environment ## ruff, mypy --strict, and a check that notebooks have no outputs
	$(call say,lint and types)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify $(NOTEBOOKS),echo "no notebooks yet")

notebooks: environment weights speech ## run the notebooks; each becomes one offline page in reports/
	$(call say,notebooks)
	@$(BIN)/whisperlab report $(NOTEBOOKS) --out $(REPORTS)

bench: environment weights speech ## microbenchmarks, and other systems on the same audio
	$(call say,benchmarks)
	@$(BIN)/whisperlab bench buffer
	@$(BIN)/whisperlab bench metrics
	@$(BIN)/whisperlab bench cache
	@$(BIN)/whisperlab bench systems

soak: environment weights speech ## stream three hours of audio: writes reports/soak.html (HOURS=0.5 for less)
	$(call say,soak: $(HOURS) hours of audio)
	@$(BIN)/python -m benchmarks.soak --hours $(HOURS) --out $(REPORTS)

compare-revisions: environment weights speech ## compare two revisions of the code (A=HEAD~1 B=HEAD; the same twice is an A/A test)
	$(call say,$(A) and $(B))
	@$(BIN)/python -m benchmarks.revisions '$(A)' '$(B)' --limit 2 --rounds 4

sbom: environment ## list the installed packages: reports/sbom.json (CycloneDX), and their licences: reports/NOTICE.txt
	@mkdir -p $(REPORTS)
	@$(PYTHON) -m venv $(VENV)-sbom
	@$(VENV)-sbom/bin/pip install --quiet cyclonedx-bom==7.5.0 pip-licenses==5.5.5
	@$(VENV)-sbom/bin/cyclonedx-py environment $(BIN)/python --of JSON -o $(REPORTS)/sbom.json
	@$(VENV)-sbom/bin/pip-licenses --python $(BIN)/python --format plain-vertical --with-urls --with-license-file --no-license-path \
		--output-file $(REPORTS)/NOTICE.txt

pins: environment ## renew constraints.txt: versions in .venv, hashes of their files (FILES: wheels from elsewhere)
	@$(PYTHON) -m venv $(VENV)-pins
	@$(VENV)-pins/bin/pip install --quiet uv==0.13.9
	@$(BIN)/python -m benchmarks.pins $(VENV)-pins/bin/uv $(FILES)

fuzz: environment speech ## thousands of damaged files and odd options, then coverage-guided fuzzing (hours)
	$(call say,fuzzing)
	@$(BIN)/python benchmarks/fuzz.py --cases 10000
	@$(BIN)/python benchmarks/fuzz.py --cases 10000 --guided

clean: ## remove the environment, caches and reports (keeps weights and speech in WHISPERLAB_CACHE)
	@rm -rf $(VENV) $(VENV)-sbom $(VENV)-pins .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@find $(REPORTS) -mindepth 1 ! -name README.md ! -name timeline.svg -delete

# --- prerequisites ------------------------------------------------------------------------------------------

environment: $(READY)

$(READY): constraints.txt pyproject.toml
	$(call say,environment: $(VENV) (some minutes and about 2 GB the first time))
	@command -v $(PYTHON) >/dev/null || { echo "whisperlab needs Python 3.11 or newer (Debian: apt-get install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "whisperlab needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V); try make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv is missing (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@awk '/^setuptools==/,!/\\$$/' constraints.txt >$(VENV)/build.txt
	@$(PIP_INSTALL) --quiet -r $(VENV)/build.txt
	@# The CPU build first: of files that it may install, pip prefers those of an index to those of a folder.
	@awk '/^torch==/,!/\\$$/ {sub(/==[^ ]*/, "&+cpu"); print}' constraints.txt >$(VENV)/torch.txt
	@$(PIP_INSTALL) -r $(VENV)/torch.txt >$(VENV)/install.log 2>&1 || \
		if ! grep -q '^ERROR: No matching distribution' $(VENV)/install.log; then cat $(VENV)/install.log >&2; exit 1; \
		elif [ "$$(uname -s)" = Linux ]; then \
			echo "pip finds no CPU build of torch and takes the one that needs CUDA. PIP_EXTRA_INDEX_URL can name PyTorch's CPU index" >&2; fi
	@$(PIP_INSTALL) -r constraints.txt >>$(VENV)/install.log 2>&1 & \
	while kill -0 $$! 2>/dev/null; do sleep 2; \
		[ -t 1 ] && printf '\r  %s of %s packages ' "$$(grep -c ^Collecting $(VENV)/install.log)" "$$(grep -c '^[a-z].*==' constraints.txt)"; done; \
	wait $$! || { cat $(VENV)/install.log >&2; exit 1; }
	@$(BIN)/python -m pip install --no-deps --no-build-isolation --disable-pip-version-check --quiet -e .
	@touch $@

weights: environment
	$(call say,weights of Whisper $(MODEL))
	@$(BIN)/whisperlab models fetch $(MODEL)

speech: environment
	$(call say,speech: $(CORPORA))
	@$(BIN)/whisperlab data build $(CORPORA)

browser:
	@if command -v chromium >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "==> Chromium, for the browser tests"; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
	else \
		echo "The browser tests need Chromium (Debian: apt-get install chromium)" >&2; exit 1; \
	fi
