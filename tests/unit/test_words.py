"""Comments, docstrings, names and pages avoid the words listed in tests/words.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import words

ROOT = Path(__file__).resolve().parents[2]

CHECKED = ["CHANGELOG.md", "CONTRIBUTING.md", "README.md", "benchmarks", "docs", "examples", "goplugins", "tests"]
LISTS = {ROOT / "tests/words.py", Path(__file__)}  # they contain the words


@pytest.mark.parametrize("root", CHECKED)
def test_texts_avoid_the_listed_words(root: str) -> None:
    assert (ROOT / root).exists()
    findings = words.findings([ROOT / root])
    found = [f"{path.relative_to(ROOT)}:{line}: {word}" for path, line, word in findings if path not in LISTS]
    assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("# nobody has it", ["nobody"]),
        ('def f():\n    """Whoever asks."""', ["Whoever", "asks"]),
        ("raise ValueError('the plugin is told twice')", ["told"]),
        ("_tell_it = 1", ["_tell_it (tell)"]),
        ("class TheKeeper: ...", ["TheKeeper (keeper)"]),
        ("def look_up(key): ...  # looks up a name", []),
        ("told = 'told'", ["told (told)"]),  # a text of one word is data
        ("print('see `nobody()`, a name')", []),
    ],
)
def test_the_check_finds_words_in_comments_texts_and_names(source: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(source + "\n")
    assert [word for _, _, word in words.findings([tmp_path])] == found


def test_the_check_leaves_out_code_blocks_of_pages(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("Nobody.\n\n```python\nnobody = 1\n```\n\nIt looks.\n")
    assert [(line, word) for _, line, word in words.findings([tmp_path])] == [(1, "Nobody"), (7, "looks")]
