"""mypy and pyright infer the types in tests/typing/api.py and report the errors that it expects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
API = "tests/typing/api.py"
# The whole package is checked by `make typecheck`, with a mypy cache of its own.
CHECKERS = {
    "mypy": ["--follow-imports=silent", "--cache-dir=.mypy_cache/typing", API],
    "pyright": ["--pythonpath", sys.executable, API],
}


@pytest.mark.timeout(240)  # a cold cache on a small machine
@pytest.mark.parametrize("checker", CHECKERS)
def test_the_public_types_are_inferred(checker: str) -> None:
    pytest.importorskip(checker)
    done = subprocess.run(
        [sys.executable, "-m", checker, *CHECKERS[checker]],
        cwd=ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
