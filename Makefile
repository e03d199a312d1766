# Shortcuts for those who have make; the README's two commands need it not.
.PHONY: setup demo test check
PYTHON ?= python3

setup: .venv/done
.venv/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	.venv/bin/voxelopt demo

test: setup
	.venv/bin/pytest

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright --pythonpath .venv/bin/python
