"""Request and response classes of the quickstart, used by the plugins and by their caller."""

import attrs


@attrs.frozen
class BookId:
    id: int


@attrs.frozen
class Book:
    id: int
    title: str


@attrs.frozen
class AuthRequest:
    user_id: str
    token: str


@attrs.frozen
class AuthResponse:
    valid: bool
    message: str = ""


@attrs.frozen
class QuoteRequest:
    symbol: str


@attrs.frozen
class QuoteResponse:
    symbol: str
    cents: int
