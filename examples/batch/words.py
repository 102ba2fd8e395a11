"""The plugin: counts the letters of a text; rejects texts of more than 20 characters."""

from goplugins import serve


@serve.plugin(name="letters", version="1.0.0")
def letters(text: str) -> int:
    if len(text) > 20:
        raise serve.Rejected("too long", code="TOO_LONG")
    return sum(each.isalpha() for each in text)
