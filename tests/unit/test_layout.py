"""tests/unit mirrors the package: ``tests/unit/a/test_b.py`` and ``test_b_*.py`` test ``goplugins/a/b.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "tests/unit"
TOPICS = {"interpreter", "known_faults"}
"""Files that are about no module: the interpreter's behaviour, and faults of the Go library."""
FILES = sorted(path for path in UNIT.rglob("test_*.py") if path.parent != UNIT)


def names(folder: Path) -> set[str]:
    """Modules and packages of a folder of the package, as test files may name them, and the package itself."""
    package = ROOT / "goplugins" / folder
    modules = {each.stem.lstrip("_") for each in package.iterdir() if each.suffix in {"", ".py"}}
    return {*modules, package.name, *TOPICS}


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(UNIT)) for path in FILES])
def test_a_test_file_is_named_after_a_module(path: Path) -> None:
    folder = path.parent.relative_to(UNIT)
    assert (ROOT / "goplugins" / folder).is_dir()
    stem = path.stem.removeprefix("test_")
    assert [name for name in names(folder) if stem == name or stem.startswith(f"{name}_")] != []
