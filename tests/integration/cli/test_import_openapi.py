"""``goplugins config import-openapi`` on published documents: its output is valid and typed."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from goplugins import Manager, ManagerConfig
from goplugins.cli import main
from goplugins.config.openapi.document import parse_document
from goplugins.config.openapi.importing import import_document
from goplugins.config.openapi.module_text import module_text
from goplugins.errors import ConfigError
from goplugins.transports.json_codec import codec_for
from tests.unit.config.openapi.helpers import import_file

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "tests/data/openapi"
PUBLISHED = {
    "github": "github.json",
    "blockfrost": "blockfrost.json",
    "galaxy": "galaxy.yaml",
    "library": "library.json",
}
SMALL = {
    "openapi": "3.1.0",
    "info": {"title": "Small", "version": "1"},
    "servers": [{"url": "https://h.example"}],
    "paths": {"/a": {"get": {"operationId": "getA", "responses": {"200": {"description": "ok"}}}}},
}


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["config", "import-openapi", *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each published document the folder with its configuration, its types and its warnings."""
    folders = {}
    for name, file in PUBLISHED.items():
        folder = folders[name] = tmp_path_factory.mktemp(name)
        files = ["--output", str(folder / "plugins.yaml"), "--types", str(folder / f"types_of_{name}.py")]
        with contextlib.redirect_stderr(io.StringIO()) as warnings:
            assert main(["config", "import-openapi", str(DATA / file), "--name", name, "--expect-404", *files]) == 0
        (folder / "warnings.txt").write_text(warnings.getvalue())
    return folders


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configuration_of_a_published_document_is_valid(
    name: str, written: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written[name] / "plugins.yaml"
    for variable in ("BLOCKFROST_API_KEY", "GALAXY_TOKEN", "LIBRARY_API_KEY"):
        monkeypatch.setenv(variable, "secret")
    assert main(["config", "check", str(file)]) == 0, capsys.readouterr().out
    with Manager() as manager:
        manager.load_from_config(str(file))


OPERATIONS: dict[str, dict[str, Any]] = {
    "github": {
        "repos_get": {"method": "GET", "path": "/repos/{owner}/{repo}", "expect": {404: None}},
        "repos_update": {"method": "PATCH", "path": "/repos/{owner}/{repo}"},
        "search_repos": {"method": "GET", "path": "/search/repositories"},
        "markdown_render_raw": {
            "method": "POST",
            "path": "/markdown/raw",
            "headers": {"Content-Type": "text/plain"},
            "body": "raw",
        },
    },
    "blockfrost": {
        "get_addresses_address_utxos": {"method": "GET", "path": "/addresses/{address}/utxos", "expect": {404: None}},
        "post_tx_submit": {
            "method": "POST",
            "path": "/tx/submit",
            "headers": {"Content-Type": "application/cbor"},
            "body": "raw",
        },
    },
    "galaxy": {
        "get_all_data": {"method": "GET", "path": "/planets"},
        "create_planet": {"method": "POST", "path": "/planets"},
        "upload_image": {"method": "POST", "path": "/planets/{planetId}/image", "body": "multipart"},
    },
    "library": {
        "list_books": {
            "method": "GET",
            "path": "/books",
            "query": {"per-page": "{per_page}"},
            "headers": {"x-trace": "{x_trace}"},
        },
        "add_book": {"method": "POST", "path": "/books", "query": {"dry_run": "{dry_run}"}},
        "set_cover": {"method": "PUT", "path": "/books/{book_id}/cover", "body": "multipart"},
        "search": {"method": "POST", "path": "/search", "body": "form"},
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_operations_of_a_published_document(name: str, written: dict[str, Path]) -> None:
    [plugin] = yaml.safe_load((written[name] / "plugins.yaml").read_text())["plugins"]
    assert plugin["name"] == name
    assert {each: plugin["operations"][each] for each in OPERATIONS[name]} == OPERATIONS[name]
    document = parse_document((DATA / PUBLISHED[name]).read_bytes(), name)
    count = sum(
        method in item for item in document["paths"].values() for method in ("get", "put", "post", "patch", "delete")
    )
    left_out = (written[name] / "warnings.txt").read_text().count(": left out: ")
    assert len(plugin["operations"]) == count - left_out


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("github", None),
        ("blockfrost", {"method": "api-key", "api_key": "${BLOCKFROST_API_KEY}", "header": "project_id"}),
        ("galaxy", {"method": "bearer", "token": "${GALAXY_TOKEN}"}),
        ("library", {"method": "api-key", "api_key": "${LIBRARY_API_KEY}", "header": "X-Library-Key"}),
    ],
)
def test_the_credentials_of_a_published_document(name: str, section: Any, written: dict[str, Path]) -> None:
    [plugin] = yaml.safe_load((written[name] / "plugins.yaml").read_text())["plugins"]
    assert plugin.get("auth") == section


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("github", "warning: repos_upload_release_asset: left out: it is served by another server"),
        ("github", "warning: issues_add_labels: its body is sent as an object only"),
        ("blockfrost", "warning: ipfs_add: left out: it is served by another server"),
        ("galaxy", "warning: webhooks: are calls to you, which are not imported"),
        ("library", "warning: make_deal: its body is sent as an object only"),
    ],
)
def test_what_is_missing_is_reported_with_the_operation(name: str, warning: str, written: dict[str, Path]) -> None:
    assert warning in (written[name] / "warnings.txt").read_text()


@pytest.mark.timeout(240)  # a cold cache on a small machine
def test_the_types_pass_mypy(written: dict[str, Path]) -> None:
    pytest.importorskip("mypy")
    files = []
    for name, folder in written.items():
        types = folder / f"types_of_{name}.py"
        binds = folder / f"binds_of_{name}.py"
        lines = [line.removeprefix("# ") for line in types.read_text().splitlines() if " = manager.bind(" in line]
        head = f"import typing\nfrom types_of_{name} import *\nimport goplugins\n\nmanager = goplugins.Manager()\n"
        binds.write_text(head + "\n".join(lines) + "\n")
        files += [str(types), str(binds)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir=.mypy_cache/openapi", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_bound_plugin_of_the_types_can_be_made(name: str, written: dict[str, Path]) -> None:
    file = written[name] / f"types_of_{name}.py"
    module = import_file(file)
    lines = [line.removeprefix("# ") for line in file.read_text().splitlines() if " = manager.bind(" in line]
    names = {**vars(module), "manager": Manager()}
    for line in lines:
        exec(line, names)
    [plugin] = yaml.safe_load((written[name] / "plugins.yaml").read_text())["plugins"]
    assert {line.rpartition("operation=")[2].strip(')"') for line in lines} == set(plugin["operations"])


SAMPLES: list[tuple[str, str, Any]] = [
    (
        "library",
        "list[Book]",
        [
            {
                "id": 1,
                "uid": "00000000-0000-0000-0000-000000000001",
                "added": "2026-01-31T12:00:00+00:00",
                "title": "A",
                "genre": "novel",
                "authors": [{"name": "B", "born": "1901-02-03"}],
                "class": "x",
                "parts": [],
            }
        ],
    ),
    ("library", "Receipt", {"book_id": 1, "deal": {"kind": "loan", "until": "2026-01-31"}, "note": None}),
]


@pytest.mark.parametrize(("name", "kind", "sample"), SAMPLES)
def test_samples_are_decoded_and_written_back(name: str, kind: str, sample: Any, written: dict[str, Path]) -> None:
    module = import_file(written[name] / f"types_of_{name}.py")
    codec = codec_for(*[eval(kind, vars(module))] * 2)
    value = codec.decode(sample)
    assert json.loads(codec.encode(value)) == sample


# --- the command ---------------------------------------------------------------------------------------------------


def put(folder: Path, values: Any, name: str = "spec.json") -> str:
    (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))
    return str(folder / name)


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_it_writes_to_stdout_what_the_manager_loads(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(put(tmp_path, SMALL), "--name", "small", "--format", kind, capsys=capsys)
    assert (code, err) == (0, "")
    values = json.loads(out) if kind == "json" else yaml.safe_load(out)
    config = ManagerConfig.from_mapping(values)
    assert config.plugins[0].operations["get_a"].path == "/a"


def test_it_reads_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(yaml.safe_dump(SMALL).encode())))
    code, out, _ = run("-", "--name", "small", capsys=capsys)
    assert code == 0
    assert yaml.safe_load(out)["plugins"][0]["operations"] == {"get_a": {"method": "GET", "path": "/a"}}


def test_the_suffix_of_the_output_is_its_format_and_the_endpoint_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    arguments = ("--name", "small", "--output", str(target), "--endpoint", "http://localhost:1")
    assert run(put(tmp_path, SMALL), *arguments, capsys=capsys) == (0, "", "")
    assert json.loads(target.read_text())["plugins"][0]["endpoint"] == "http://localhost:1"


def test_a_configuration_that_has_to_be_corrected_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(put(tmp_path, SMALL), "--name", "not a name!", capsys=capsys)
    assert code == 1
    assert "warning: plugins[0].name: " in err
    assert "operations" in out


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"swagger": "2.0"}, "swagger: Swagger 2.0 is not read, only OpenAPI 3.0 and 3.1 (convert it first"),
        ("", "the file is empty"),
        ("a: [", "line 2, column 1"),
        ({**SMALL, "paths": {"/a": {"$ref": "a.yaml"}}}, "paths./a.$ref: 'a.yaml' refers to another document"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({**SMALL, "info": {"title": "\ud800"}}), "info.title: has a lone surrogate"),
        ({**SMALL, "components": {"schemas": {"\udfff": {}}}}, "components.schemas.?: has a lone surrogate"),
        ("a: " + "[" * 100_000, "exceeded maximum nesting depth"),
    ],
)
def test_bad_input_ends_with_2_and_a_line_with_the_fix(
    values: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(put(tmp_path, values), "--name", "small", capsys=capsys)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("goplugins: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["--output", "--types"])
def test_a_file_that_cannot_be_written_or_read_ends_with_2(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(put(tmp_path, SMALL), "--name", "small", option, str(tmp_path / "no/x"), capsys=capsys)
    assert code == 2
    assert "can't be written: No such file or directory" in err
    code, _, err = run(str(tmp_path / "nowhere.yaml"), "--name", "small", capsys=capsys)
    assert code == 2
    assert "can't be read: No such file or directory" in err


def test_a_problem_of_a_schema_names_the_file_and_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = copy.deepcopy(SMALL)
    reply = {"description": "ok", "content": {"application/json": {"schema": {"type": "strin"}}}}
    values["paths"]["/a"]["get"]["responses"]["200"] = reply  # type: ignore[index]
    spec = put(tmp_path, values)
    assert run(spec, "--name", "small", capsys=capsys)[0] == 0
    code, _, err = run(spec, "--name", "small", "--types", str(tmp_path / "t.py"), capsys=capsys)
    assert code == 2
    assert f"{spec}: paths./a.get.responses.200.content.application/json.schema.type: is no type of JSON" in err
    assert not (tmp_path / "t.py").exists()


def test_schemas_that_are_nested_too_deeply_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema: Any = {"type": "string"}
    for _ in range(400):
        schema = {"type": "array", "items": schema}
    values: Any = copy.deepcopy(SMALL)
    reply = {"description": "ok", "content": {"application/json": {"schema": schema}}}
    values["paths"]["/a"]["get"]["responses"]["200"] = reply
    code, out, err = run(put(tmp_path, values), "--name", "small", "--types", str(tmp_path / "t.py"), capsys=capsys)
    assert (code, out) == (2, "")
    assert "its schemas are nested too deeply (give nested schemas names" in err


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


WRONG: list[Any] = [None, 1, "x", [], {}, True, [1], {"x": 1}, {"$ref": "#/nope"}]


def import_with_each_place_wrong(document: Any, every: int) -> None:
    without: list[Any] = []
    for index, path in enumerate(list(places(document))[1:]):
        if index % every:
            continue
        broken = copy.deepcopy(document)
        *parents, last = path
        parent = broken
        for step in parents:
            parent = parent[step]
        for wrong in WRONG:
            parent[last] = wrong
            try:
                text = module_text(import_document(broken, "api", source="x"), lambda _, __: None)
                compile(text, str(path), "exec")
            except ConfigError as exc:
                without += [(path, wrong, problem) for problem in exc.problems if not problem.fix]
    assert without == []


def test_any_wrong_value_in_a_document_is_one_clear_error_or_none() -> None:
    import_with_each_place_wrong(parse_document((DATA / "library.json").read_bytes(), "x"), 20)


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "every"), [("library", 4), ("galaxy", 8), ("blockfrost", 8), ("github", 150)])
def test_any_wrong_value_in_each_document_is_one_clear_error_or_none(name: str, every: int) -> None:
    import_with_each_place_wrong(parse_document((DATA / PUBLISHED[name]).read_bytes(), name), every)
