"""Imports each module of goplugins with no other one loaded: ``python -W error -m tests.imports``.

Prints those that fail, and fails if there are any.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = frozenset(["celery", "dask", "django", "flask", "gevent", "opentelemetry", "prometheus_client", "redis"])
"""Packages that a module may need: where they are not installed, it can't be imported, and that is no fault."""


def modules() -> list[str]:
    """Names of all modules, found as files: a module that can't be imported is still found."""
    files = (path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "goplugins").rglob("*.py"))
    return sorted(".".join(parts).removesuffix(".__init__") for parts in files if parts[-1] != "__main__")


def failures() -> dict[str, str]:
    """Name of each module that can't be imported alone, and why."""
    names = modules()
    packages = {name.rpartition(".")[0] for name in names}
    problems: dict[str, str] = {}
    seen: set[str] = set()
    # Packages first: what a package loads besides itself has been imported with nothing but the package before it.
    for name in sorted(names, key=lambda name: (name not in packages, name)):
        if name in seen:
            continue
        for loaded in [module for module in sys.modules if module.partition(".")[0] == "goplugins"]:
            del sys.modules[loaded]
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if (exc.name or "").partition(".")[0] not in OPTIONAL:
                problems[name] = repr(exc)
        except BaseException as exc:
            problems[name] = repr(exc)
        else:
            seen |= {module for module in sys.modules if module.rpartition(".")[0] == name}
    return problems


if __name__ == "__main__":
    found = failures()
    for name, problem in found.items():
        print(f"{name} can't be imported alone: {problem}", file=sys.stderr)
    sys.exit(bool(found))
