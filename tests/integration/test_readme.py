"""The README's example, saved to a file and run, prints what the README shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    page = README.read_text()
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    outputs = re.findall(r"It prints:\n\n```text\n(.*?)```", page, flags=re.DOTALL)
    assert len(examples) == len(outputs) == 1

    script = tmp_path / "first_call.py"
    script.write_text(examples[0])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == outputs[0]
    assert done.stderr == ""
