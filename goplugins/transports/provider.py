"""Headers that a function of the application gives to each attempt, such as a signature: ``auth.provider``."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from goplugins.config.credentials import AuthConfig
from goplugins.errors import CredentialsProviderError, InvalidConfigError, InvalidHeaderError, belongs_to_host
from goplugins.headers import check_headers
from goplugins.models.outgoing import OutgoingRequest
from goplugins.runtime.text import from_outside
from goplugins.transports.import_object import named_object

_MAX_TEXT = 500
"""Characters of an exception's text."""

_PATH = "auth.provider"


class Provider:
    """The function of one plugin.

    Args:
        target: ``package.module:function``.
        plugin: the plugin's name.
        scrub: removes credentials from a text.

    Raises:
        ConfigError: there is no such function, or its module can't be imported.
    """

    def __init__(self, target: str, plugin: str, scrub: Callable[[str], str]) -> None:
        self._target = target
        self._plugin = plugin
        self._scrub = scrub
        self._function = named_object(target, path=_PATH)
        if not callable(self._function):
            raise InvalidConfigError(f"{target} can't be called", path=_PATH, fix="name a function")

    @classmethod
    def of(cls, auth: AuthConfig | None, plugin: str, scrub: Callable[[str], str]) -> Provider | None:
        """The provider that a section names; None for none."""
        return cls(auth.provider, plugin, scrub) if auth is not None and auth.provider else None

    def headers(
        self, operation: str, method: str, url: str, headers: Mapping[str, str], body: bytes, charset: str = "latin-1"
    ) -> dict[str, str]:
        """The headers for one attempt; for the arguments see :class:`OutgoingRequest`.

        Args:
            charset: that header values must be of.

        Raises:
            CredentialsProviderError: the function failed, or returned no headers that can be sent.
        """
        request = OutgoingRequest(
            plugin=self._plugin,
            operation=operation,
            method=method,
            url=url,
            headers=MappingProxyType(dict(headers)),
            body=body,
        )
        try:
            found = self._function(request)
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            self.fail(self._description(exc))
        if not isinstance(found, Mapping):
            self.fail(f"returned a {type(found).__name__}, expected a mapping of headers")
        try:
            check_headers(found, "it returned headers")
        except InvalidHeaderError as exc:
            self.fail(exc.message)
        for name, value in found.items():
            try:
                value.encode(charset)
            except UnicodeEncodeError:
                self.fail(f"it returned headers[{name!r}]: the value has characters outside {charset.upper()}")
        return dict(found)

    def _description(self, exc: Exception) -> str:
        """Type, text and place of an exception. The exception itself may hold credentials, and is no cause."""
        frames = traceback.extract_tb(exc.__traceback__)
        where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if len(frames) > 1 else ""
        text = from_outside(self._scrub(str(exc)), _MAX_TEXT)
        return f"raised {type(exc).__name__}{f': {text}' if text else ''}{where}"

    def refuse(self, name: str) -> NoReturn:
        """Raises the error for a header that the function must not set."""
        self.fail(f"it returned the header {name!r}, which is set by the connection")

    def fail(self, text: str) -> NoReturn:
        """Raises the error for what the function did."""
        raise CredentialsProviderError(f"{_PATH} {self._target}: {text}; nothing was sent") from None


def merged(headers: Mapping[str, str], signed: Mapping[str, str]) -> dict[str, str]:
    """Headers with those of a provider in the place of any of the same name.

    >>> merged({"a": "1", "B": "2"}, {"b": "3"})
    {'a': '1', 'b': '3'}
    """
    names = {name.lower() for name in signed}
    kept: dict[str, Any] = {name: value for name, value in headers.items() if name.lower() not in names}
    return {**kept, **signed}
