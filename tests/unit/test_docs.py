"""Documentation pages: links have targets, code blocks compile, configurations load, tables match the code."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pytest

from goplugins.config import ManagerConfig
from goplugins.config.openapi.document import parse_document
from goplugins.config.openapi.importing import import_document

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found, start, language, lines = [], 0, "", list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.lstrip().startswith("```"):
            lines.append(line)
        elif not start:
            start, language, lines = number, line.strip().removeprefix("```"), []
        else:
            found.append(Block(page, start, language, "\n".join(lines) + "\n"))
            start = 0
    assert not start, f"{page}:{start}: the code block does not end"
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


def blocks_in(*languages: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{block.page.relative_to(ROOT)}:{block.line}")
        for block in BLOCKS
        if block.language in languages
    ]


def _prose(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_within_the_repository_have_targets(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if not found.exists() or (anchor and anchor not in _anchors(found)):
            broken.append(target)
    assert broken == []


def test_the_index_links_each_page() -> None:
    index = (ROOT / "docs/index.md").read_text()
    assert [page.name for page in sorted((ROOT / "docs").glob("*.md")) if f"({page.name})" not in index] == ["index.md"]


@pytest.mark.parametrize("block", blocks_in("python"))
def test_python_blocks_compile_and_their_imports_exist(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "goplugins":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("block", blocks_in("yaml", "json", "toml"))
def test_configuration_blocks_load_and_validate(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in re.findall(r"\$\{(\w+)\}", block.text):
        monkeypatch.setenv(variable, "http://host" if variable.endswith("_URL") else "a-value-of-the-test")
    if block.text.startswith("openapi: "):  # not a configuration: the specification of one
        plugin = import_document(parse_document(block.text.encode(), "page"), "page", source="page").plugin
        ManagerConfig.from_mapping({"plugins": [plugin]}).validate()
        return
    path = tmp_path / f"plugins.{block.language}"
    path.write_text(block.text)
    ManagerConfig.from_file(path).validate()


@pytest.mark.parametrize("block", blocks_in("sh"))
def test_named_make_targets_exist(block: Block) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", block.text)) <= targets


def test_files_named_in_the_mutmut_settings_exist() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    named = [
        *settings["pytest_add_cli_args_test_selection"],
        *settings["pytest_add_cli_args"],
        *settings["only_mutate"],
    ]
    paths = [each.removeprefix("--deselect=").partition("::")[0] for each in named if "/" in each]
    assert [path for path in paths if not list(ROOT.glob(path))] == []
    assert len(paths) > 10


# --- docs/architecture.md against the code ---------------------------------------------------------------------------

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


def test_files_named_in_the_architecture_exist() -> None:
    named = re.findall(r"`((?:goplugins|tests)/[\w./-]*)`", ARCHITECTURE)
    in_pictures = [f"goplugins/{path}" for path in re.findall(r"[ (]((?:\w+/)+\w+\.py)", ARCHITECTURE)]
    assert len(named) > 50
    assert len(in_pictures) > 8
    assert [path for path in (*named, *in_pictures) if not (ROOT / path).exists()] == []


def test_the_layers_are_those_of_the_import_contracts() -> None:
    shown = re.findall(r"^(\d)  ([\w, |]+)$", ARCHITECTURE, flags=re.MULTILINE)
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = (
        contracts["importlinter:contract:floors"]["layers"].replace("goplugins.", "").replace(" :", ",").split("\n")
    )
    assert [packages for _, packages in shown] == [layer for layer in layers if layer]
    assert [int(number) for number, _ in shown] == list(range(len(shown), 0, -1))


def test_the_architecture_describes_each_package() -> None:
    described = re.findall(r"^\| `goplugins/(\w+)/` \|", ARCHITECTURE, flags=re.MULTILINE)
    packages = {path.parent.name for path in (ROOT / "goplugins").glob("*/__init__.py")}
    assert sorted(described) == sorted(packages)


# --- docs/configuration.md against the classes -----------------------------------------------------------------------

SECTIONS = {
    "ManagerConfig": "",
    "PluginConfig": "",
    "OperationConfig": "",
    "DiscoveryConfig": "",
    "LoadBalancerConfig": "",
    "AuthConfig": "",
    "RetryConfig": "default_retry",
    "CircuitBreakerConfig": "default_circuit_breaker",
    "HealthCheckConfig": "default_health_check",
    "ConnectionConfig": "default_connection",
    "RateLimitConfig": "default_rate_limit",
    "BulkheadConfig": "",
    "FallbackConfig": "",
    "CacheConfig": "",
    "HedgeConfig": "",
    "ChaosConfig": "",
    "ObservabilityConfig": "",
}


def _table(class_name: str) -> dict[str, str]:
    """Defaults by field, from the table under the heading that names the class."""
    page = (ROOT / "docs/configuration.md").read_text()
    match = re.search(rf"^#+ [^\n]*`{class_name}`[^\n]*\n(.*?)(?=^#|\Z)", page, flags=re.MULTILINE | re.DOTALL)
    assert match, f"docs/configuration.md has no heading with `{class_name}`"
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", match[1], flags=re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a field is described twice"
    return {name: default.strip().strip("`") for name, default in rows}


@pytest.mark.parametrize("class_name", SECTIONS)
def test_the_tables_have_exactly_the_fields_of_the_classes(class_name: str) -> None:
    config = importlib.import_module("goplugins.config")
    assert sorted(_table(class_name)) == sorted(field.name for field in attrs.fields(getattr(config, class_name)))


@pytest.mark.parametrize(("class_name", "section"), [(name, path) for name, path in SECTIONS.items() if path])
def test_the_tables_have_the_defaults_of_the_classes(class_name: str, section: str) -> None:
    defaults = getattr(ManagerConfig(), section)
    for name, written in _table(class_name).items():
        value = getattr(defaults, name)
        if isinstance(value, bool) or value is None:
            assert written == {True: "true", False: "false", None: "—"}[value], name
        else:
            assert _number(written) == pytest.approx(value), name


def test_the_errors_page_has_a_row_for_each_error_class() -> None:
    """docs/errors.md lists code and class blocks_in each error once."""
    page = (ROOT / "docs/errors.md").read_text()
    rows = re.findall(r"^\| ([A-Z]+_[0-9]{4}) \| ([^|]+) \|", page, flags=re.MULTILINE)
    documented = [(name, code) for code, names in rows for name in re.findall(r"`(\w+)`", names)]
    classes = importlib.import_module("goplugins.errors")
    kinds = (getattr(classes, name) for name in classes.__all__)
    errors = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, classes.PluginError)}
    assert sorted(documented) == sorted((kind.__name__, kind.code) for kind in errors - {classes.PluginError})


def _number(written: str) -> float:
    number, _, unit = written.partition(" ")
    return float(number) * {"": 1, "s": 1, "ms": 0.001, "MiB": 1024 * 1024, "%": 0.01}[unit]
