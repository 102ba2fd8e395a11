"""Finds words that make a text hard to understand: ``python -m tests.words goplugins docs`` lists them.

The subject of a sentence is a technical noun (call, attempt, process, lock), and its terms are those of the field.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

PEOPLE = r"nobody|nobody's|somebody|somebody's|anybody|anybody's|everybody|whoever|whom|innocent|guilty"
VERBS = (
    r"tells|told|asks|asked|knows|hears|heard|looks|look at|looked|looking|heeds|heeded|hurry|hurries|goes by|lets go|"
    r"let go of|stands? down|stood down|sees? off|seen off|parts? with|parted with|befalls?|in vain|for ever"
)
NOUNS = (
    r"look|upkeep|household|keeper|guardian|glance|news|leg|legs|seat|seats|bell|wish|wishes|riddle|spell|bare plugin"
)
WORDS = re.compile(rf"\b(?:{PEOPLE}|{VERBS}|{NOUNS})\b(?! ?up\b)", re.IGNORECASE)

NAME_PARTS = (
    "anybody|bare|bell|glance|guardian|heed|house|household|hurry|ill|keeper|layered|leg|legs|look|looked|looks|nobody|"
    "passage|recipe|seat|seats|somebody|tell|tells|told|upkeep|wakeup|whoever|wish|wishes"
)
NAMES = frozenset(NAME_PARTS.split("|"))
"""Parts of identifiers: ``_tell_it`` has ``tell``. ``look_up`` is a term of its own."""

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
        if name and (parts := NAMES.intersection(_parts(name))):
            yield path, getattr(node, "lineno", 0), f"{name} ({', '.join(sorted(parts))})"


def _parts(name: str) -> list[str]:
    """``_look_upKeep`` has look, up and keep."""
    return re.findall(r"[a-z]+", re.sub(r"([A-Z])", r" \1", name).lower().replace("look_up", ""))


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
    """Those in the Python files and Markdown pages at and below ``places``."""
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
