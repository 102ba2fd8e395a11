"""The code of each how-to page runs in an empty folder, in the order of the page, and prints what the page shows."""

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
    """The page's Python as one program, and its expected output. Blocks under a file's name are written to that file.

    Where the text says "`name()` prints", a call of that function is added.
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


def run(folder: Path) -> str:
    command = [sys.executable, "-W", "error", "page.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_page_runs_and_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Seconds in the output may be a little more than shown, on a busy machine in two of three runs a lot more."""
    program, shown = program_of(page, tmp_path)
    (tmp_path / "page.py").write_text(program)
    late: list[str] = []
    for _ in range(3):
        printed = run(tmp_path)
        assert _SECONDS.sub("#", printed) == _SECONDS.sub("#", shown)
        late = [
            f"{seconds} s instead of {expected} s"
            for expected, seconds in zip(_SECONDS.findall(shown), _SECONDS.findall(printed), strict=True)
            if not float(expected) <= float(seconds) <= float(expected) + 0.3
        ]
        if not late:
            return
    pytest.fail(", ".join(late))
