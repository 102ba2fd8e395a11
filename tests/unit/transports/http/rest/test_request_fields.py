"""Values in a path, by hypothesis: whatever the text, and however often a server decodes it, it stays in its place."""

from __future__ import annotations

import posixpath
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import assume, example, given, strategies as st

from goplugins.config.templates import Template
from goplugins.errors import InvalidArgumentError
from goplugins.transports.http.rest.reply import _next_link
from goplugins.transports.http.rest.request_fields import path_of, scalar_text, value_texts

PIECES = [
    "..",
    ".",
    "/",
    "\\",
    "%",
    "%2e",
    "%2F",
    "%252e",
    "%5c",
    ";",
    "?",
    "#",
    "a",
    "ü",
    " ",
    "\0",
    "\r\n",
    "{x}",
    "+",
]
TEXTS = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.sampled_from(PIECES)).map("".join))
TEMPLATES = [
    Template.parse(text)
    for text in ("/base/{a}", "/base/{a}/end", "/base/x-{a}.{b}/end", "/base/{a}{b}", "/base/{a}/{b}")
]


@pytest.mark.parametrize("template", TEMPLATES, ids=[template.text for template in TEMPLATES])
@given(TEXTS, TEXTS)
@example("..", "x")
@example("%2e%2e", "x")
@example("%252e%252e%252f", "x")
@example("..;a", ".")
@example(".", ".")
def test_a_value_stays_in_its_place(template: Template, a: str, b: str) -> None:
    try:
        path = path_of(template, {"a": a, "b": b}, "operation")
    except InvalidArgumentError:
        assert (
            "" in (a, b)
            or "." in unquote(unquote(unquote(template.text + a + b)))
            or not {"/", "\\"}.isdisjoint(unquote(unquote(unquote(a + b))))
        )
        return
    assert path.isascii()
    assert path.isprintable()
    assert " " not in path
    assert urlsplit(f"http://host{path}").path == path  # no query, no fragment
    # A server that splits the path first gets each value as it is.
    expected = template.fill(lambda name: quote({"a": a, "b": b}[name], safe=""))
    assert path == expected
    assert path.count("/") == template.text.count("/")
    # One that decodes first, once or twice, does not leave the template's place.
    for decoded in (path, unquote(path), unquote(unquote(path))):
        plain = decoded.replace("\\", "/")
        assert plain.count("/") == template.text.count("/")
        assert posixpath.normpath(plain).startswith("/base/")
        assert not {".", ".."} & set(plain.split("/"))


@given(st.text("<>;,=\"\\ relnxt/*'", max_size=300))
def test_any_link_header_is_read(header: str) -> None:
    assert isinstance(_next_link(header), str)


@given(st.text(st.characters(exclude_characters="<> \t"), min_size=1), st.text(st.characters(exclude_characters='"\\')))
def test_a_link_is_found_among_others(url: str, title: str) -> None:
    assume(url.strip() == url)
    header = f'<x>; title="{title}; rel=next", <{url}>; title="{title}"; rel="a next"'
    assert _next_link(header) == url


@given(st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)))
def test_scalars_have_one_text(value: object) -> None:
    text = scalar_text(value)
    assert isinstance(text, str)
    assert value_texts(value, "", "name") == [text]
    assert value_texts([value, None, value], "", "name") == [text, text]
