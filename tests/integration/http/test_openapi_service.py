"""A service of FastAPI, called through the operations and classes that its own OpenAPI document gives."""

from __future__ import annotations

import datetime
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import goplugins
from goplugins import Manager
from goplugins.cli import main
from goplugins.errors import AuthenticationError, PluginError
from tests.unit.config.openapi.helpers import import_file

pytestmark = pytest.mark.hosts

SERVICE = Path(__file__).resolve().parents[2] / "data/openapi/library_app.py"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    lacking = [name for name in ("fastapi", "uvicorn", "multipart") if find_spec(name) is None]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    with subprocess.Popen([sys.executable, str(SERVICE), "serve"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def folder(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and types, made from the document that the service serves."""
    folder = tmp_path_factory.mktemp("library")
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=30) as reply:
        (folder / "spec.json").write_bytes(reply.read())
    files = ["--output", str(folder / "plugins.yaml"), "--types", str(folder / "library_types.py")]
    options = ["--name", "library", "--endpoint", url, "--expect-404"]
    assert main(["config", "import-openapi", str(folder / "spec.json"), *options, *files]) == 0
    return folder


@pytest.fixture
def library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The classes, and the bound plugins as the comments of the file have them."""
    monkeypatch.setenv("LIBRARY_API_KEY", "secret")
    module = import_file(folder / "library_types.py")
    with Manager() as manager:
        manager.load_from_config(str(folder / "plugins.yaml"))
        names = {**vars(module), "manager": manager}
        for line in (folder / "library_types.py").read_text().splitlines():
            if " = manager.bind(" in line:
                exec(line.removeprefix("# "), names)
        yield names


def test_each_operation_is_called_with_its_types(library: dict[str, Any]) -> None:
    new, author = library["AddBookRequest"], library["Author"]
    parts = [library["NewBookInput"](title="Part 1")]
    request = new(
        title="Ulysses", authors=[author(name="Joyce", born=datetime.date(1882, 2, 2))], parts=parts, class_="A"
    )
    book = library["add_book"](request)
    assert (book.title, book.class_, book.genre) == ("Ulysses", "A", "novel")
    assert book.authors == [author(name="Joyce", born=datetime.date(1882, 2, 2))]
    assert book.parts[0].title == "Part 1"
    assert isinstance(book.uid, uuid.UUID)
    assert book.added == datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    assert library["get_book"](library["GetBookRequest"](book_id=book.id)) == book
    assert library["remove_book"](library["RemoveBookRequest"](book_id=book.id)) is None
    assert library["get_book"](library["GetBookRequest"](book_id=book.id)) is None


def test_parameters_reach_the_service_where_they_belong(library: dict[str, Any]) -> None:
    add, find = library["AddBookRequest"], library["ListBooksRequest"]
    library["add_book"](add(title="Dry", dry_run=True))
    for title, genre in (("A", "novel"), ("B", "science"), ("C", "science")):
        library["add_book"](add(title=title, genre=genre))
    titles = [
        [book.title for book in library["list_books"](find(**fields))]
        for fields in (
            {},
            {"genre": ["science"]},
            {"genre": ["science", "novel"], "per_page": 2},
            {"added_since": datetime.date(2026, 2, 1)},
            {"genre": ["novel"], "x_trace": "t-1"},
        )
    ]
    assert titles == [["A", "B", "C"], ["B", "C"], ["A", "B"], [], ["A (t-1)"]]


def test_unions_forms_files_and_texts(library: dict[str, Any]) -> None:
    loan = library["Loan"](kind="loan", until=datetime.date(2026, 3, 1))
    sale = library["Sale"](kind="sale", price=9.5)
    assert [library["describe_deal"](each) for each in (loan, sale)] == [loan, sale]
    receipt = library["make_deal"](library["MakeDealRequest"](book_id=7, kind="sale", price=9.5))
    assert (receipt.book_id, receipt.deal, receipt.note) == (7, sale, None)
    cover = library["SetCoverRequest"]
    image = goplugins.File(b"12345", name="cover.png", content_type="image/png")
    assert library["set_cover"](cover(book_id=7, image=image, caption="ü")) == {
        "name": "cover.png",
        "size": 5,
        "caption": "ü",
        "book": 7,
    }
    assert library["set_cover"](cover(book_id=7, image=b"123"))["size"] == 3
    [search] = [each for name, each in library.items() if name.startswith("BodySearch")]
    assert library["search"](search(words="a b", limit=2)) == ["a b", "a b"]
    assert library["motto"](library["MottoRequest"]()) == "Silence, please."


def test_what_the_service_refuses_is_an_error_with_its_operation(
    library: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PluginError, match=r"HTTP 422 from GET /books") as caught:
        library["list_books"](library["ListBooksRequest"](genre=["western"]))
    assert caught.value.operation == "list_books"
    keyless = (
        (folder / "plugins.yaml").read_text().replace("${LIBRARY_API_KEY}", "x").replace("X-Library-Key", "X-Other")
    )
    (folder / "keyless.yaml").write_text(keyless)
    with Manager() as manager:
        manager.load_from_config(str(folder / "keyless.yaml"))
        with pytest.raises(AuthenticationError):
            manager.execute("library", {"book_id": 1}, operation="get_book")
