"""What an application says of its plugins: ``settings.GOPLUGINS`` in Django, ``app.config["GOPLUGINS"]`` in Flask."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from goplugins.config import ManagerConfig
from goplugins.config.durations import parse_duration
from goplugins.contrib._request_limits import Limits
from goplugins.errors import ConfigError, InvalidArgumentError, InvalidConfigError
from goplugins.headers import check_headers

__all__ = ["HostSettings"]

_NO_DEFAULT = object()


@attrs.frozen
class HostSettings:
    """The settings, checked.

    Attributes:
        config: ``CONFIG``, what the manager loads.
        watch: ``WATCH``, whether it follows that file.
        setup: ``SETUP``, called with the manager before that.
        limits: ``TIMEOUT``, ``TIMEOUT_HEADERS`` and ``REQUEST_ID_HEADER``.
        required: ``HEALTH_REQUIRED``, the plugins without which the application is not ready; all when None.
    """

    config: ManagerConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None
    watch: bool = False
    setup: Callable[[Any], object] | None = None
    limits: Limits = attrs.field(factory=Limits)
    required: tuple[str, ...] | None = None

    @property
    def watched(self) -> str | None:
        """The file that is followed, if one is."""
        return os.fspath(self.config) if self.watch and isinstance(self.config, str | os.PathLike) else None

    @classmethod
    def of(cls, values: object, source: str) -> HostSettings:
        """Reads plain values.

        Args:
            values: a mapping of the names above.
            source: what error messages call it, such as ``settings.GOPLUGINS``.

        Raises:
            ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
        """
        if not isinstance(values, Mapping):
            raise InvalidConfigError(
                f"expected a mapping, got {type(values).__name__}",
                path=source,
                fix='such as {"CONFIG": "plugins.yaml"}',
            )
        reading = _Reading(values, source)
        setup = reading.take("SETUP", _setup, None)
        found = cls(
            config=reading.take("CONFIG", _config, None),
            watch=reading.take("WATCH", _switch, False),
            setup=setup,
            limits=Limits(
                timeout=reading.take("TIMEOUT", _seconds, None),
                timeout_headers=reading.take("TIMEOUT_HEADERS", _headers, Limits().timeout_headers),
                request_id_header=reading.take("REQUEST_ID_HEADER", _header, Limits().request_id_header),
            ),
            required=reading.take("HEALTH_REQUIRED", _names, None),
        )
        if found.watch and found.watched is None:
            reading.refuse("WATCH", "there is no file to follow", "give CONFIG as a path, or leave it out")
        reading.finish()
        return found


class _Reading:
    def __init__(self, values: Mapping[Any, Any], source: str) -> None:
        self._values = dict(values)
        self._source = source
        self._known: list[str] = []
        self._problems: list[ConfigError] = []

    def take(self, name: str, read: Callable[[Any], Any], default: Any) -> Any:
        self._known.append(name)
        value = self._values.pop(name, _NO_DEFAULT)
        if value is _NO_DEFAULT or value is None:
            return default
        try:
            return read(value)
        except ConfigError as error:
            self.refuse(name, error.message, error.fix)
            return default

    def refuse(self, name: object, message: str, fix: str) -> None:
        self._problems.append(InvalidConfigError(message, path=f"{self._source}[{name!r}]", fix=fix))

    def finish(self) -> None:
        for name in self._values:
            near = difflib.get_close_matches(str(name).upper(), self._known, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(self._known))}"
            self.refuse(name, "there is no such setting", fix)
        if self._problems:
            raise InvalidConfigError.of(self._problems, self._source)


# --- one function a setting -------------------------------------------------------------------------------------


def _config(value: Any) -> Any:
    if isinstance(value, ManagerConfig | Mapping | str | os.PathLike) and value != "":
        return value
    raise InvalidConfigError(f"expected a path, a mapping or a ManagerConfig, got {value!r}", fix='"plugins.yaml"')


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidConfigError(f"expected True or False, got {value!r}")


def _setup(value: Any) -> Any:
    if isinstance(value, str):
        module, _, name = value.replace(":", ".").rpartition(".")
        try:
            value = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as exc:
            raise InvalidConfigError(f"can't import {value!r}: {exc}", fix='such as "shop.plugins.setup"') from exc
    if not callable(value):
        raise InvalidConfigError(f"expected a function of the manager, got {value!r}", fix='or its "path.to.it"')
    return value


def _seconds(value: Any) -> float:
    fix = 'seconds such as 10, or "10s"; leave it out for none'
    if isinstance(value, str):
        try:
            value = parse_duration(value)
        except InvalidArgumentError as exc:
            raise InvalidConfigError(exc.message, fix=fix) from exc
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InvalidConfigError(f"expected seconds greater than 0, got {value!r}", fix=fix)
    return float(value)


def _header(value: Any) -> str:
    try:
        if value:
            check_headers({value: ""})
    except InvalidArgumentError as exc:
        raise InvalidConfigError(f"{value!r} is no header's name", fix='such as "X-Request-ID"; "" for none') from exc
    return str(value)


def _headers(value: Any) -> tuple[str, ...]:
    return tuple(_header(name) for name in _names(value) or ())


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidConfigError(f"expected a list of names, got {value!r}")
    names = tuple(value)
    for name in names:
        if not isinstance(name, str) or not name:
            raise InvalidConfigError(f"expected a list of names, but {name!r} is none")
    return names
