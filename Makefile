# One command each: `make demo` and `make test` set up what they need.
PYTHON ?= python3
TORCH := .venv/torch/bin/python
APPS := vit_pytorch_ipu mae_pytorch_ipu swin_pytorch_ipu vit_pytorch_gaudi vit_tensorflow_gaudi
PROJECTS := ci common remap_custom_op poptorch_host $(APPS)

DEMOS := vit mae swin gaudi keras
CACHES := __pycache__ .mypy_cache .ruff_cache .pytest_cache
YOURS := \( -name data -o -name output -o -name .git \) -prune -o

.PHONY: help setup demo test faults lint copies bench clean $(addprefix demo-,$(DEMOS)) $(addprefix test-,$(PROJECTS))

help:           ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@printf '%s\n' $(addprefix '  make demo-,$(addsuffix ',$(DEMOS))) $(addprefix '  make test-,$(addsuffix ',$(PROJECTS)))

setup:          ## make the environments (.venv/torch, .venv/tensorflow) from nothing; does nothing when they are up to date
	@$(PYTHON) ci/environments.py torch tensorflow

demo: setup     ## all five apps on real scans of digits, end to end: a table, and demo/report.html
	@$(TORCH) -m ci.demo

$(addprefix demo-,$(DEMOS)): demo-%: setup
	@$(TORCH) -m ci.demo $*

test: setup lint ## everything: lint, then the tests of every part
	@$(TORCH) ci/test.py $(PROJECTS)

$(addprefix test-,$(PROJECTS)): test-%: setup
	@$(TORCH) ci/test.py $*

faults: setup   ## kills, damage, hostile files, full disks, … done to all five apps: a table of what came of them
	@$(TORCH) -m ci.faults

lint: setup     ## ruff, mypy, and the copies of run/ identical
	@$(TORCH) ci/lint.py

copies:         ## renew what apps share, such as run/, from its source
	@$(PYTHON) ci/copies.py --renew

bench: setup    ## each app's training step beside its peers, poptorch_host's overhead, the input pipelines
	@$(TORCH) -m benchmarks

clean:          ## remove environments, caches and what the demo wrote; data sets and runs of yours stay
	rm -rf .venv build remap_custom_op/build demo $(APPS:%=%/data/digits) $(APPS:%=%/data/digits_records)
	find . $(YOURS) -type d \( $(CACHES:%=-name '%' -o) -name '*.egg-info' \) -prune -exec rm -rf {} +
