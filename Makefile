# One command each: `make demo` and `make test` set up what they need.
PYTHON ?= python3
TORCH := .venv/torch/bin/python
APPS := vit_pytorch_ipu mae_pytorch_ipu swin_pytorch_ipu vit_pytorch_gaudi vit_tensorflow_gaudi
PROJECTS := ci common remap_custom_op poptorch_host $(APPS)

.PHONY: help setup demo test lint copies bench clean $(addprefix test-,$(PROJECTS))

help:           ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@printf '%s\n' $(addprefix '  make test-,$(addsuffix ',$(PROJECTS)))

setup:          ## make the environments (.venv/torch, .venv/tensorflow) from nothing; does nothing when they are up to date
	@$(PYTHON) ci/environments.py torch tensorflow

demo: setup     ## sample data, fine-tune a small ViT, validate it, table and curves
	@$(TORCH) ci/demo.py

test: setup lint ## everything: lint, then the tests of every part
	@$(TORCH) ci/test.py $(PROJECTS)

$(addprefix test-,$(PROJECTS)): test-%: setup
	@$(TORCH) ci/test.py $*

lint: setup     ## ruff, mypy, and the copies of run/ identical
	@$(TORCH) ci/lint.py

copies:         ## renew what apps share, such as run/, from its source
	@$(PYTHON) ci/copies.py --renew

bench: setup    ## the host engine's overhead, and each app's training step beside its peers
	@$(TORCH) benchmarks/executor_overhead.py
	@for work in mae swin vit_gaudi; do echo; echo $$work; $(TORCH) -m benchmarks.side_by_side $$work || exit 1; done
	@echo; echo keras_vit; .venv/tensorflow/bin/python -m benchmarks.side_by_side keras_vit

clean:          ## remove environments, caches and what the demo wrote
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache $(APPS:%=%/data) $(APPS:%=%/output) remap_custom_op/build
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name '*.egg-info' -prune -exec rm -rf {} +
