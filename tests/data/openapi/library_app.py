"""A service that is not ours: FastAPI, and its own OpenAPI document, which is library.json beside this file.

``python library_app.py`` writes the document anew; ``python library_app.py serve`` serves, and prints its URL.
"""

import datetime
import enum
import json
import sys
import uuid
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, File, Form, Header, HTTPException, Query, Response, UploadFile
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field

app = FastAPI(
    title="Library",
    version="1.2.0",
    servers=[{"url": "http://127.0.0.1:{port}", "variables": {"port": {"default": "8000"}}}],
)
key = APIKeyHeader(name="X-Library-Key")
BOOKS: dict[int, "Book"] = {}


class Genre(enum.StrEnum):
    NOVEL = "novel"
    SCIENCE = "science"


class Author(BaseModel):
    name: str
    born: datetime.date | None = None


class NewBook(BaseModel):
    title: str
    genre: Genre = Genre.NOVEL
    authors: list[Author] = []
    class_: str | None = Field(default=None, alias="class")
    parts: list["NewBook"] = []


class Book(NewBook):
    id: int
    uid: uuid.UUID
    added: datetime.datetime


class Loan(BaseModel):
    kind: Literal["loan"]
    until: datetime.date


class Sale(BaseModel):
    kind: Literal["sale"]
    price: float


class Receipt(BaseModel):
    book_id: int
    deal: Annotated[Loan | Sale, Field(discriminator="kind")]
    note: str | None


@app.get("/books", dependencies=[Depends(key)])
def list_books(
    genre: Annotated[list[Genre] | None, Query()] = None,
    added_since: datetime.date | None = None,
    per_page: Annotated[int, Query(alias="per-page")] = 20,
    x_trace: Annotated[str | None, Header()] = None,
) -> list[Book]:
    found = [book for book in BOOKS.values() if not genre or book.genre in genre]
    found = [book for book in found if added_since is None or book.added.date() >= added_since]
    return [
        book.model_copy(update={"title": f"{book.title} ({x_trace})"}) if x_trace else book for book in found[:per_page]
    ]


@app.post("/books", status_code=201, dependencies=[Depends(key)])
def add_book(book: NewBook, dry_run: bool = False) -> Book:
    added = Book(
        **book.model_dump(by_alias=True),
        id=len(BOOKS) + 1,
        uid=uuid.UUID(int=len(BOOKS) + 1),
        added=datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC),
    )
    if not dry_run:
        BOOKS[added.id] = added
    return added


@app.get("/books/{book_id}", responses={404: {"description": "no such book"}}, dependencies=[Depends(key)])
def get_book(book_id: int) -> Book:
    if book_id not in BOOKS:
        raise HTTPException(404, "no such book")
    return BOOKS[book_id]


@app.delete("/books/{book_id}", status_code=204, dependencies=[Depends(key)])
def remove_book(book_id: int) -> None:
    BOOKS.pop(book_id, None)


@app.post("/books/{book_id}/deals", dependencies=[Depends(key)])
def make_deal(book_id: int, deal: Annotated[Loan | Sale, Field(discriminator="kind")]) -> Receipt:
    return Receipt(book_id=book_id, deal=deal, note=None)


@app.post("/deals", dependencies=[Depends(key)])
def describe_deal(deal: Annotated[Loan | Sale, Field(discriminator="kind")]) -> Loan | Sale:
    return deal


@app.put("/books/{book_id}/cover", dependencies=[Depends(key)])
def set_cover(
    book_id: int, image: Annotated[UploadFile, File()], caption: Annotated[str, Form()] = ""
) -> dict[str, str | int]:
    return {"name": image.filename or "", "size": len(image.file.read()), "caption": caption, "book": book_id}


@app.post("/search")
def search(words: Annotated[str, Form()], limit: Annotated[int, Form()] = 10) -> list[str]:
    return [words] * limit


@app.get("/motto", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def motto() -> Response:
    return Response("Silence, please.", media_type="text/plain")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        import socket

        import uvicorn

        listener = socket.create_server(("127.0.0.1", 0))
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
    else:
        from pathlib import Path

        Path(__file__).with_name("library.json").write_text(json.dumps(app.openapi(), indent=1) + "\n")
