"""Each lock is a new one in a forked child: made by ``create_lock``, or again by its owner."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import goplugins

ROOT = Path(goplugins.__file__).parent
LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier", "allocate_lock"}
IN_CHILDREN = {"after_fork_in_child", "disown"}
"""Methods that make a part usable in a child, or that end its use there."""

OTHERWISE = {
    "runtime/clock.py Waiter._asleep": "made for one wait of one thread",
    "runtime/cancellation.py Cancellation._lock": "made for one attempt, which a child does not continue",
    "runtime/fork.py create_lock": "the rule itself",
    "runtime/fork.py create_rlock": "the rule itself",
    "runtime/fork.py renew_after_fork": "one for each process id",
    "runtime/workers.py _State.lock": "WorkerPool.after_fork_in_child makes a new state",
    "runtime/workers.py _State.changed": "WorkerPool.after_fork_in_child makes a new state",
    "contrib/_manager_proxy.py Hosted._make": "one for each process id",
    "contrib/_manager_proxy.py Hosted.reset": "one for each process id",
    "serve/_stdio.py StdioServer._ended": "a child does not serve the pipes of its parent",
    "serve/_stdio.py StdioServer._changed": "a child does not serve the pipes of its parent",
    "serve/_line_server.py LineService._slots": "a child does not serve the connections of its parent",
    "serve/_unix_listener.py _exclusive": "made for one wait of one thread",
    "serve/_unix.py UnixServer._accept": "made for one wait of one thread",
    "testing/_clock.py ManualClock._moved": "for tests of applications, in one process",
}
"""Locks without either, each with the reason."""


def is_lock(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = node.func
    owner = name.value if isinstance(name, ast.Attribute) else None
    return (
        isinstance(name, ast.Attribute)
        and name.attr in LOCKS
        and ast.unparse(owner or name) in {"threading", "_thread"}
    )


def renewed(part: ast.ClassDef) -> tuple[set[str], set[str]]:
    """Methods that a child runs, and the attributes that they set."""
    methods = {each.name: each for each in part.body if isinstance(each, ast.FunctionDef)}
    todo, names, attributes = [name for name in methods if name in IN_CHILDREN], set[str](), set[str]()
    while todo:
        name = todo.pop()
        if name in names or name not in methods:
            continue
        names.add(name)
        for node in ast.walk(methods[name]):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
                todo.append(node.attr)
                if isinstance(node.ctx, ast.Store):
                    attributes.add(node.attr)
    return names, attributes


def locks(path: Path) -> Iterator[str]:
    """Places where a lock is made that a child would inherit."""
    module = ast.parse(path.read_text())
    where = path.relative_to(ROOT).as_posix()
    for part in (
        *module.body,
        *(each for outer in module.body if isinstance(outer, ast.ClassDef) for each in outer.body),
    ):
        if isinstance(part, ast.ClassDef):
            methods, attributes = renewed(part)
            for method in (each for each in part.body if isinstance(each, ast.FunctionDef)):
                for statement in ast.walk(method):
                    if not isinstance(statement, ast.stmt) or not any(map(is_lock, direct(statement))):
                        continue
                    targets = statement.targets if isinstance(statement, ast.Assign) else []
                    kept = [each.attr for each in targets if isinstance(each, ast.Attribute)]
                    if method.name not in methods and not set(kept) & attributes:
                        yield f"{where} {part.name}.{kept[0] if kept else method.name}"
        elif part in module.body and any(map(is_lock, ast.walk(part))):
            yield f"{where} {getattr(part, 'name', ast.unparse(part))}"


def direct(statement: ast.stmt) -> Iterator[ast.AST]:
    """Expressions of a statement, without those of the statements within."""
    todo: list[ast.AST] = [each for each in ast.iter_child_nodes(statement) if not isinstance(each, ast.stmt)]
    while todo:
        node = todo.pop()
        yield node
        todo += [each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.stmt)]


def test_each_lock_is_renewed_in_a_child() -> None:
    found = {place for path in sorted(ROOT.rglob("*.py")) for place in locks(path)}
    assert found - set(OTHERWISE) == set()
    assert set(OTHERWISE) - found == set(), "no longer needed"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("class A:\n def __init__(self):\n  self._lock = threading.Lock()", ["A._lock"]),
        ("class A:\n def __init__(self):\n  self._lock = create_lock(self)", []),
        ("_LOCK = threading.RLock()", ["_LOCK = threading.RLock()"]),
        ("def f():\n with d.setdefault('x', threading.Lock()): pass", ["f"]),
        ("class A:\n def f(self):\n  with d.setdefault('x', threading.Lock()): pass", ["A.f"]),
        (
            "class A:\n def _reset(self):\n  self._lock = threading.Lock()\n def disown(self):\n  self._reset()",
            [],
        ),
        (
            "class A:\n def f(self):\n  self._a = threading.Lock()\n def disown(self):\n  self._a = threading.Lock()",
            [],
        ),
        ("class A:\n def _reset(self):\n  self._lock = threading.Lock()", ["A._lock"]),
    ],
)
def test_the_rule(text: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "m.py").write_text(text)
    assert list(locks(tmp_path / "m.py")) == [f"m.py {each}" for each in found]
