# Everything runs in .venv, which `setup` makes once and again only when the pins change.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo demo-paper test test-slow coverage check docs-check bench docs audit

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pelap needs Python 3.11 or later; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,onnx,tensorboard,text]'
	touch $(STAMP)

# half the latents and half the arithmetic of the model in the box, recovered from its classes alone
DRAWN := --prompts classes --num-drawn 256 --drawn-steps 10
demo: setup
	$(BIN)/pelap prune cifar --keep 8 --rotate decoder --denoiser-macs 0.55 $(DRAWN) --num-pictures 256 --output runs/demo/pruned --overwrite
	$(BIN)/pelap recover runs/demo/pruned --teacher cifar $(DRAWN) --parts denoiser --steps 130 --batch-size 64 --num-pictures 64 --output runs/demo/small --overwrite
	$(BIN)/pelap compare cifar runs/demo/small --num-prompts 10 --steps 20 --batch-sizes 100 --output runs/demo
	@echo "Open runs/demo/drawn.html"

# the paper's method on embedded photographs, beside its baseline
demo-paper: setup
	$(BIN)/pelap reproduce demo --output runs/demo-paper --lambdas 0
	@echo "Open runs/demo-paper/report.html"

test: setup
	$(BIN)/python -m pytest --durations 15

test-slow: setup
	$(BIN)/python -m pytest -m slow --durations 5

# apart from `test`: tracing makes the tests half as long again
coverage: setup
	$(BIN)/python -m pytest --cov=pelap --cov-report=term:skip-covered

check: setup docs-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs-check: setup
	$(BIN)/python docs/check.py

bench: setup
	$(BIN)/pelap bench train paper --data.source photos --rounds 3

docs: setup
	$(BIN)/python docs/build.py

# known holes in the pinned packages; asks pypi.org, so it is no part of `check`
audit: setup
	@$(BIN)/python -c 'import pip_audit' 2>/dev/null || { echo "make audit needs pip-audit, which is not installed: $(BIN)/python -m pip install pip-audit" >&2; exit 2; }
	$(BIN)/python -m pip_audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off
