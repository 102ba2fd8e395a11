"""What operations from an OpenAPI document put on the wire, for each kind of parameter and body."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, jsonify, request
from werkzeug.serving import make_server

import goplugins
from goplugins import Manager
from goplugins.cli import main
from tests.unit.config.openapi.helpers import body, import_file, parameter, spec

OK = {"200": {"description": "ok", "content": {"application/json": {"schema": {"type": "object"}}}}}
LIST = {"type": "array", "items": {"type": "string"}}
FILTER = {"type": "object", "properties": {"name": {"type": "string"}, "min-size": {"type": "integer"}}}
ITEM = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "class": {"type": "string"},
        "when": {"type": "string", "format": "date-time"},
        "tags": LIST,
    },
}
UPLOAD = {
    "type": "object",
    "required": ["some-file"],
    "properties": {"some-file": {"type": "string", "format": "binary"}, "class": {"type": "string"}},
}


def paths() -> dict[str, Any]:
    def item(name: str, method: str, *given: Any, **rest: Any) -> Any:
        return {method: {"operationId": name, "parameters": list(given), "responses": OK, **rest}}

    identifier = parameter("item-id", "path")
    return {
        "/find": item(
            "find",
            "get",
            parameter("q", required=True),
            parameter("tag", schema=LIST),
            parameter("per-page", schema={"type": "integer"}),
            parameter("only_new", schema={"type": "boolean"}),
            parameter("filter", schema=FILTER, style="deepObject"),
            parameter("X-Trace", "header"),
            parameter("X-Tags", "header", schema=LIST),
        ),
        "/items/{item-id}": {
            **item("replace", "put", identifier, parameter("dry"), requestBody=body(ITEM)),
            **item("change", "patch", identifier, requestBody=body(ITEM, "application/merge-patch+json")),
            **item("drop", "delete", identifier, parameter("force", schema={"type": "boolean"})),
            **item("touch", "post", identifier, parameter("at")),
        },
        "/orders": item("order", "post", parameter("Idempotency-Key", "header"), requestBody=body(ITEM)),
        "/many": item("many", "post", requestBody=body({"type": "array", "items": ITEM})),
        "/forms": item("form", "post", requestBody=body(ITEM, "application/x-www-form-urlencoded")),
        "/files/{item-id}": item("upload", "post", identifier, requestBody=body(UPLOAD, "multipart/form-data")),
        "/raw/{item-id}": item("raw", "put", identifier, requestBody=body({}, "application/pdf")),
        "/csv": item("csv", "post", requestBody=body({"type": "string"}, "text/csv")),
        "/label/{item-id}": item("label", "get", parameter("item-id", "path", style="matrix")),
    }


def echo() -> Flask:
    app = Flask(__name__)

    @app.route("/v1/<path:_>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def everything(_: str) -> Any:
        files = {name: [file.filename, file.content_type, file.read().decode()] for name, file in request.files.items()}
        form = {**request.form.to_dict(flat=False), **files}
        return jsonify(
            line=f"{request.method} {request.environ['RAW_URI'].removeprefix('/v1')}",
            form=form,
            body=None if form else request.get_data().decode(),
            type=(request.content_type or "").partition(";")[0],
            key="Idempotency-Key" in request.headers,
            trace=request.headers.get("X-Trace"),
            tags=request.headers.get("X-Tags"),
        )

    return app


@contextlib.contextmanager
def serving(app: Flask) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The classes of the document, and the bound plugins."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "spec.json").write_text(json.dumps(spec(paths())))
    with serving(echo()) as url, Manager() as manager:
        files = ["--output", str(folder / "plugins.yaml"), "--types", str(folder / "echo_types.py")]
        command = ["config", "import-openapi", str(folder / "spec.json"), "--name", "echo"]
        assert main([*command, "--endpoint", f"{url}/v1", *files]) == 0
        manager.load_from_config(str(folder / "plugins.yaml"))
        found = {**vars(import_file(folder / "echo_types.py")), "manager": manager, "goplugins": goplugins}
        for line in (folder / "echo_types.py").read_text().splitlines():
            if " = manager.bind(" in line:
                exec(line.removeprefix("# "), found)
        yield found


JSON = "application/json"


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        ("find(FindRequest(q='a b'))", {"line": "GET /find?q=a%20b"}),
        (
            "find(FindRequest(q='x', tag=['a', 'b'], per_page=5, only_new=True, filter_name='n', filter_min_size=3))",
            {
                "line": "GET /find?per-page=5&filter%5Bname%5D=n&filter%5Bmin-size%5D=3&q=x&tag=a&tag=b&only_new=true",
            },
        ),
        (
            "find(FindRequest(q='x', X_Trace='t', X_Tags=['1', '2']))",
            {"line": "GET /find?q=x", "trace": "t", "tags": "1, 2"},
        ),
        (
            "replace(ReplaceRequest(item_id='a b', name='n'))",
            {"line": "PUT /items/a%20b", "body": '{"name":"n"}', "type": JSON},
        ),
        (
            "replace(ReplaceRequest(item_id='1', dry='x', name='n', class_='c', tags=['t']))",
            {"line": "PUT /items/1?dry=x", "body": '{"name":"n","class":"c","tags":["t"]}', "type": JSON},
        ),
        (
            "change(ChangeRequest(item_id='1', name='n'))",
            {"line": "PATCH /items/1", "body": '{"name":"n"}', "type": "application/merge-patch+json"},
        ),
        ("drop(DropRequest(item_id='1', force=False))", {"line": "DELETE /items/1?force=false"}),
        ("touch(TouchRequest(item_id='1', at='now'))", {"line": "POST /items/1?at=now"}),
        (
            "order(OrderBody(name='n'))",
            {"line": "POST /orders", "body": '{"name":"n"}', "type": JSON, "key": True},
        ),
        ("many([ManyBodyItem(name='n')])", {"line": "POST /many", "body": '[{"name":"n"}]', "type": JSON}),
        (
            "form(FormBody(name='n', class_='c', tags=['a', 'b']))",
            {
                "line": "POST /forms",
                "form": {"name": ["n"], "class": ["c"], "tags": ["a", "b"]},
                "type": "application/x-www-form-urlencoded",
            },
        ),
        (
            "upload(UploadRequest(item_id='1', some_file=goplugins.File(b'x', 'f.txt', 'text/plain'), class_='c'))",
            {
                "line": "POST /files/1",
                "form": {"some-file": ["f.txt", "text/plain", "x"], "class": ["c"]},
                "type": "multipart/form-data",
            },
        ),
        (
            "raw(RawRequest(item_id='1', content=b'%PDF'))",
            {"line": "PUT /raw/1", "body": "%PDF", "type": "application/pdf"},
        ),
        ("csv('a,b')", {"line": "POST /csv", "body": "a,b", "type": "text/csv"}),
        ("label(LabelRequest(item_id='1'))", {"line": "GET /label/;item-id=1"}),
    ],
)
def test_a_request_reaches_the_service_as_the_document_says(call: str, sent: Any, names: dict[str, Any]) -> None:
    nothing = {"form": {}, "body": "", "type": "", "key": False, "trace": None, "tags": None}
    expected = {**nothing, **sent}
    if expected["form"]:
        expected["body"] = None
    assert eval(call, names) == expected
