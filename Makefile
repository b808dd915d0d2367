# One command each: `make demo` and `make test` set up what they need.
PYTHON ?= python3
TORCH := .venv/torch/bin/python
PROJECTS := ci common poptorch_host vit_pytorch_ipu

.PHONY: help setup demo test lint copies bench clean $(addprefix test-,$(PROJECTS))

help:           ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@printf '%s\n' $(addprefix '  make test-,$(addsuffix ',$(PROJECTS)))

setup:          ## make the environments (.venv/torch) from nothing; does nothing when they are up to date
	@$(PYTHON) ci/environments.py torch

demo: setup     ## sample data, fine-tune a small ViT, validate it, table and curves
	@$(TORCH) ci/demo.py

test: setup lint ## everything: lint, then the tests of every part
	@$(TORCH) ci/test.py $(PROJECTS)

$(addprefix test-,$(PROJECTS)): test-%: setup
	@$(TORCH) ci/test.py $*

lint: setup     ## ruff, mypy, and the copies of run/ identical
	@$(TORCH) ci/lint.py

copies:         ## renew every app's run/ from vit_pytorch_ipu/run
	@$(PYTHON) ci/copies.py --renew

bench: setup    ## the host engine's overhead over a hand-written loop
	@$(TORCH) benchmarks/executor_overhead.py

clean:          ## remove environments, caches and what the demo wrote
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache vit_pytorch_ipu/data vit_pytorch_ipu/output
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name '*.egg-info' -prune -exec rm -rf {} +
