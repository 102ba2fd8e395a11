"""Templates of paths, parameters and headers: ``{field}`` stands for a field of the request (RFC 6570, level 1)."""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@attrs.frozen
class Template:
    """A parsed template.

    Attributes:
        text: as it was written.
        literals: the texts around the fields: one more than there are fields.
        fields: the names of the fields, in order.
    """

    text: str
    literals: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """The template in ``text``.

        Raises:
            ValueError: a brace that is no part of a ``{field}``.

        >>> Template.parse("/repos/{owner}/{name}").fields
        ('owner', 'name')
        >>> Template.parse("/a/{b")
        Traceback (most recent call last):
        ValueError: has a brace that is no part of a {field}
        """
        parts = _FIELD.split(text)
        literals, fields = tuple(parts[::2]), tuple(parts[1::2])
        if any("{" in literal or "}" in literal for literal in literals):
            raise ValueError("has a brace that is no part of a {field}")
        return cls(text, literals, fields)

    @property
    def is_field(self) -> bool:
        """Whether the template is one field and nothing else."""
        return self.literals == ("", "")

    def fill(self, value_of: Callable[[str], str]) -> str:
        """The text with each field replaced by its value.

        >>> Template.parse("{first}-{last}").fill(str.upper)
        'FIRST-LAST'
        """
        literals = self.literals
        if len(literals) == 1:
            return literals[0]
        filled = [literals[0]]
        for name, literal in zip(self.fields, literals[1:], strict=True):
            filled += (value_of(name), literal)
        return "".join(filled)
