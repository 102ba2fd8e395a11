"""The how-to pages add plugins to a view by a diff of few lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HOWTO = Path(__file__).resolve().parents[2] / "docs/howto"


@pytest.mark.parametrize("name", ["django", "flask"])
def test_a_view_changes_by_three_lines_at_most(name: str) -> None:
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", (HOWTO / f"{name}.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = diff.splitlines()
    assert 1 <= sum(line.startswith("+") for line in lines) <= 3
    assert sum(line.startswith("-") for line in lines) <= 3
    after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    compile(after, name, "exec")
