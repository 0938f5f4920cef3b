# make demo    train on the embedded digits, export W4A4, verify: runs/demo/model.pt and runs/demo/model.onnx, and
#              runs/demo/report.html about them
# make test    all tests
# make lint    style;  make types    static types
# make conformance    many architectures at three widths, those of timm, torchvision, transformers and ultralytics too:
#                     docs/operators.md, docs/results/conformance.json
# make fuzz    damaged ONNX files, checkpoints, data and configurations, FUZZ=5000 of every kind: hours
#
# Everything is installed into .venv, with the versions of constraints.txt, when one of the targets first needs it.

# Any Python >= 3.11 that can create virtual environments; `make PYTHON=/path/to/python demo` chooses one.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(USABLE)' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
WORKERS ?= auto
FUZZ ?= 5000
DEMO := runs/demo

.PHONY: demo test lint types conformance fuzz

demo: .venv/.installed
	rm -rf $(DEMO)
	$(BIN)/qkd-deploy train --out $(DEMO)
	$(BIN)/qkd-deploy export --bits w4a4 --output $(DEMO)/model.onnx $(DEMO)/model.pt
	$(BIN)/qkd-deploy verify $(DEMO)/model.onnx --dataset digits --checkpoint $(DEMO)/model.pt --require-integer
	$(BIN)/qkd-deploy report $(DEMO) $(DEMO)/model.onnx

test: .venv/.installed-dev
	$(BIN)/pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev
	$(BIN)/mypy

fuzz: .venv/.installed-dev
	QKD_FUZZ=$(FUZZ) $(BIN)/pytest -o faulthandler_timeout=0 tests/fuzz tests/checkpoints/test_fuzz.py \
		tests/training/test_fuzzed_config.py tests/data/sets/test_hostile_files.py

conformance: .venv/.installed-dev .conformance/.installed
	QKD_DEPLOY_TIMM=.conformance $(BIN)/python tests/conformance/run_conformance.py \
		--json docs/results/conformance.json --page docs/operators.md

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/pip qkd_deploy/cli qkd_deploy/export
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/pip qkd_deploy/cli qkd_deploy/export
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch .venv/.installed $@

# Beside the environment: torchvision seldom fits its PyTorch (tests/support/timm_models.py copes with that).
.conformance/.installed: constraints.txt | .venv/.installed-dev
	$(BIN)/python -m pip install --no-deps --target .conformance -c constraints.txt timm torchvision
	$(BIN)/python -m pip install --target .conformance -c constraints.txt transformers
	$(BIN)/python -m pip install --no-deps --target .conformance -c constraints.txt ultralytics ultralytics-thop \
		opencv-python-headless py-cpuinfo psutil polars polars-runtime-32 requests urllib3 scipy
	touch $@

# pip is the last thing that venv writes, so an interrupted set-up is completed by the next run.
.venv/bin/pip:
	@"$(PYTHON)" -c '$(USABLE)' 2>/dev/null || { echo >&2 "qkd-deploy needs Python 3.11 or newer with the venv" \
		"module (tried '$(PYTHON)'): install it, or name it with make PYTHON=/path/to/python3"; exit 1; }
	"$(PYTHON)" -m venv .venv

# Links of the repository; source archives do not hold them.
qkd_deploy/cli qkd_deploy/export:
	ln -s ../$(notdir $@) $@
