"""The coverage-guided fuzzer over `tests.fuzz.edge`: libFuzzer's options are its arguments, `python -m tests.fuzz` runs it."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["gateway"]):
    from tests.fuzz.edge import check

if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
