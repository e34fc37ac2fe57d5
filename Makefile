# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := .demo/library

.PHONY: demo test check endurance bench tiny-model clean

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/mmsearch -l $(DEMO) index data/postcards --captions data/postcards/captions.jsonl --model tiny
	@echo; echo '$$ mmsearch search "a rainbow over a city" -k 3'
	@$(BIN)/mmsearch -l $(DEMO) search "a rainbow over a city" -k 3
	@echo; echo '$$ mmsearch captions data/postcards/postcard-0009.jpg -k 4'
	@$(BIN)/mmsearch -l $(DEMO) captions data/postcards/postcard-0009.jpg -k 4
	@echo; echo 'Open the page:  $(BIN)/mmsearch -l $(DEMO) serve   then http://127.0.0.1:8080'
	@echo 'Your own photos: $(BIN)/mmsearch index ~/Photos'

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

tiny-model: $(INSTALLED)
	$(BIN)/python data/tiny/train.py
	$(BIN)/python data/tiny/card.py

# Kills, write errors, full disks, damaged files; hostile inputs; any order of anything; examples that
# `make test` has not had yet. Forty minutes.
endurance: $(INSTALLED)
	mkdir -p .endurance/crash
	$(BIN)/python tests/endurance/crash.py --kills 200 --faults 200 --full-disks 20 --damages 100 \
	  --seed 1 --work .endurance/crash --out .endurance/crash.json
	$(BIN)/python tests/endurance/fuzz.py --inputs 100000 --seed 1 --keep .endurance/inputs \
	  --out .endurance/fuzz.json
	$(BIN)/python tests/endurance/interleavings.py --examples 100 --steps 30 --seed 1 \
	  --out .endurance/interleavings.json
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile explore -n auto --dist loadfile

# Each prints its tables and writes .bench/NAME.json and a plot; what they work on, and the peers'
# environments, stay in .bench/work. One that misses a bar does not stop the others. An hour, with
# 10 GB of disk; QUICK=1: ten minutes, on small numbers. ONLY="search store" runs those.
ONLY ?= pipeline query search store peers growth
FULL_search := --vectors 10000 100000 1000000 --library 1000000
FULL_store := --full
QUICK_search := --vectors 10000
options = $(if $(QUICK),$(or $(QUICK_$(1)),--quick),$(FULL_$(1)))
bench: $(INSTALLED)
	@mkdir -p $(addprefix .bench/work/,$(ONLY)); missed=; $(foreach name,$(ONLY), \
	  echo; echo "=== $(name)"; \
	  $(BIN)/python tests/benchmarks/$(name).py --work .bench/work/$(name) --out .bench/$(name).json \
	    --plot .bench/$(name).png $(call options,$(name)) || missed="$$missed $(name)";) \
	echo; if test -n "$$missed"; then echo "missed a bar, or failed:$$missed"; exit 1; fi; \
	echo "every bar is reached; figures and plots: .bench/"

clean:
	rm -rf .demo .endurance .bench build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
