"""The how-to pages run: their code in order, page by page, in an empty folder, with the output that they show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [*sorted((DOCS / "howto").glob("*.md")), DOCS / "errors.md"]

_BLOCK = re.compile(r"(?:^`(?P<file>[\w.]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

_SECONDS = re.compile(r"\b\d+\.\d(?= s\b)")


def program_of(page: Path, folder: Path) -> tuple[str, str]:
    """The page's Python as one program, and what it is to print; blocks under a file's name are written there.

    A function that a block tests with is called where the text says so: "`name()` prints".
    """
    program, output, last = [], [], 0
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        program += [f"{call}\n" for call in re.findall(r"`(\w+\(\))` prints", text[last : match.start()])]
        last = match.end()
        if match["file"]:
            (folder / match["file"]).write_text(match["text"])
        elif match["language"] == "python":
            program.append(match["text"])
        elif match["language"] == "text":
            output.append(match["text"])
    return "\n".join(program), "".join(output)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_page_runs_and_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    program, output = program_of(page, tmp_path)
    (tmp_path / "page.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _SECONDS.sub("#", done.stdout) == _SECONDS.sub("#", output)
    for shown, measured in zip(_SECONDS.findall(output), _SECONDS.findall(done.stdout), strict=True):
        assert float(shown) <= float(measured) <= float(shown) + 0.3, "what a busy machine adds"
