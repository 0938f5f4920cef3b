# make demo    train on the embedded digits, export W4A4, verify: runs/demo/model.pt and runs/demo/model.onnx
# make test    all tests
# make lint    style;  make types    static types
#
# Everything is installed into .venv, with the versions of constraints.txt, when one of the targets first needs it.

# Any Python >= 3.11 that can create virtual environments; `make PYTHON=/path/to/python demo` chooses one.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(USABLE)' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
WORKERS ?= auto
DEMO := runs/demo

.PHONY: demo test lint types

demo: .venv/.installed
	rm -rf $(DEMO)
	$(BIN)/qkd-deploy train --out $(DEMO)
	$(BIN)/qkd-deploy export --bits w4a4 --output $(DEMO)/model.onnx $(DEMO)/model.pt
	$(BIN)/qkd-deploy verify $(DEMO)/model.onnx --dataset digits --checkpoint $(DEMO)/model.pt --require-integer

test: .venv/.installed-dev
	$(BIN)/pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/pip qkd_deploy/cli qkd_deploy/export
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/pip qkd_deploy/cli qkd_deploy/export
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch .venv/.installed $@

# pip is the last thing that venv writes, so an interrupted set-up is completed by the next run.
.venv/bin/pip:
	@"$(PYTHON)" -c '$(USABLE)' 2>/dev/null || { echo >&2 "qkd-deploy needs Python 3.11 or newer with the venv" \
		"module (tried '$(PYTHON)'): install it, or name it with make PYTHON=/path/to/python3"; exit 1; }
	"$(PYTHON)" -m venv .venv

# Links of the repository; source archives do not hold them.
qkd_deploy/cli qkd_deploy/export:
	ln -s ../$(notdir $@) $@
