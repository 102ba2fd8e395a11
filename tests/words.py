"""Which words the texts of this project keep out, and where they still stand: ``python -m tests.words goplugins docs``.

The subject of a sentence is a call, an attempt, a process, a lock; the terms are those of the field.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

PEOPLE = r"nobody|nobody's|somebody|somebody's|anybody|anybody's|everybody|whoever|whom"
VERBS = r"tells|told|asks|knows|looks|look at|looked|looking|heeds|heeded|hurry|hurries|goes by|lets go|let go of"
NOUNS = (
    r"look|upkeep|household|keeper|guardian|glance|news|leg|legs|seat|seats|bell|wish|wishes|riddle|spell|bare plugin"
)
WORDS = re.compile(rf"\b(?:{PEOPLE}|{VERBS}|{NOUNS})\b(?! ?up\b)", re.IGNORECASE)

NAMES = frozenset(
    [
        "nobody",
        "somebody",
        "anybody",
        "whoever",
        "tell",
        "tells",
        "told",
        "heed",
        "hurry",
        "upkeep",
        "household",
        "house",
        "keeper",
        "guardian",
        "glance",
        "leg",
        "legs",
        "seat",
        "seats",
        "bell",
        "wakeup",
        "passage",
        "recipe",
        "look",
        "looks",
        "looked",
        "bare",
        "layered",
        "ill",
        "wish",
        "wishes",
    ]
)
"""Parts of identifiers: ``_tell_it`` has ``tell``."""

Finding = tuple[Path, int, str]


def in_text(path: Path, line: int, text: str) -> Iterator[Finding]:
    """Words in prose; a fenced block of code or a name in backquotes is no prose."""
    for offset, each in enumerate(text.splitlines()):
        for found in WORDS.finditer(re.sub(r"`[^`]*`", "", each)):
            yield path, line + offset, found[0]


def in_python(path: Path) -> Iterator[Finding]:
    """Words in comments, in texts of more than one word, and in names that the file defines."""
    source = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from in_text(path, token.start[0], token.string)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from in_text(path, node.lineno, node.value)
        name = _defined(node)
        if name and (parts := NAMES.intersection(re.findall(r"[a-z]+|[A-Z][a-z]*", name.lower()))):
            yield path, getattr(node, "lineno", 0), f"{name} ({', '.join(sorted(parts))})"


def _defined(node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr
    return ""


def in_page(path: Path) -> Iterator[Finding]:
    """Words in a Markdown page, its blocks of code left out."""
    text = re.sub(
        r"^```.*?^```", lambda found: "\n" * found[0].count("\n"), path.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    yield from in_text(path, 1, text)


def findings(places: Iterable[Path]) -> list[Finding]:
    """All of them below the given files and folders."""
    found: list[Finding] = []
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix == ".py":
                found += in_python(path)
            elif path.suffix == ".md":
                found += in_page(path)
    return found


if __name__ == "__main__":
    for path, line, word in findings(map(Path, sys.argv[1:])):
        print(f"{path}:{line}: {word}")
