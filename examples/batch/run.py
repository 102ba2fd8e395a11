"""Starts the plugin and calls it for each line of a text; a second run continues where the first one stopped."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goplugins import CallResult, Manager

HERE = Path(__file__).parent
LINES = [f"line {number}" for number in range(500)] + ["a line that is far too long for it"]


@contextmanager
def plugin() -> Iterator[str]:
    """Runs the plugin in a process; yields its address."""
    command = [sys.executable, "-m", "goplugins", "serve", "words:letters", "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.terminate()


def run(manager: Manager[str, int], journal: Path, most: int | None = None) -> str:
    """Calls the plugin for the lines that are not in the journal, at most ``most`` of them."""
    done = {json.loads(line)["text"] for line in journal.read_text().splitlines()} if journal.exists() else set()
    waiting = [text for text in LINES if text not in done][:most]
    failed = 0
    with journal.open("a") as file:

        def note(text: str, result: CallResult[int]) -> None:
            # One write per line: several threads call this, and the script may be killed at any moment.
            file.write(json.dumps({"text": text, "letters": result.value if result.ok else None}) + "\n")
            file.flush()

        for result in manager.map_results("letters", waiting, timeout=10, concurrency=4, ordered=False, on_result=note):
            failed += not result.ok
    return f"{len(done)} were done before, {len(waiting)} called, {failed} failed"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, plugin() as url, Manager(str, int) as manager:
        manager.load_from_config({"plugins": [{"name": "letters", "transport": "http", "endpoint": url}]})
        journal = Path(folder, "journal")
        print("first run: ", run(manager, journal, most=200), flush=True)
        print("second run:", run(manager, journal), flush=True)
        found = [json.loads(line) for line in journal.read_text().splitlines()]
        print(f"{len(found)} lines in the journal, {sum(each['letters'] or 0 for each in found)} letters", flush=True)


if __name__ == "__main__":
    main()
