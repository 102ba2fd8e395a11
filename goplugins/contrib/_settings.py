"""Settings of an application's plugins: ``settings.GOPLUGINS`` in Django, ``app.config["GOPLUGINS"]`` in Flask."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import attrs

from goplugins.config import ManagerConfig
from goplugins.config.conversion import read
from goplugins.config.field_types import Seconds, Text, describe
from goplugins.contrib._request_limits import Limits
from goplugins.errors import InvalidArgumentError, InvalidConfigError
from goplugins.headers import check_headers
from goplugins.manager.interceptors import Interceptor, Interceptors

__all__ = ["HostSettings"]


class _Source:
    """A path, a mapping or a ``ManagerConfig``."""

    def read(self, value: object, *, text: bool) -> Any:
        if isinstance(value, ManagerConfig | Mapping | str | os.PathLike) and value != "":
            return value
        expected = "expected a path, a mapping or a ManagerConfig"
        raise InvalidConfigError(f"{expected}, got {describe(value)}", fix='write a path such as "plugins.yaml"')


class _Function:
    """A function, or its import path."""

    def read(self, value: object, *, text: bool) -> Any:
        if isinstance(value, str):
            module, _, name = value.replace(":", ".").rpartition(".")
            try:
                value = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError, ValueError) as exc:
                raise InvalidConfigError(f"can't import {value!r}: {exc}", fix='such as "shop.plugins.setup"') from exc
        if not callable(value):
            raise InvalidConfigError(f"expected a function, got {describe(value)}", fix='or its "path.to.it"')
        return value


class _Interceptor(_Function):
    """A function around each call, or its import path."""

    def read(self, value: object, *, text: bool) -> Any:
        function: Any = super().read(value, text=text)
        try:
            Interceptors([function])
        except InvalidArgumentError as exc:
            raise InvalidConfigError(exc.message, fix="write def interceptor(call, proceed): return proceed()") from exc
        return function


class _HeaderName:
    """The name of a header; empty for none."""

    def read(self, value: object, *, text: bool) -> str:
        name = Text().read(value, text=text)
        try:
            if name:
                check_headers({name: ""})
        except InvalidArgumentError as exc:
            fix = 'such as "X-Request-ID"; "" for none'
            raise InvalidConfigError(f"{name!r} is not a header name", fix=fix) from exc
        return name


@attrs.frozen
class _Fields:
    """The settings as applications write them."""

    CONFIG: Annotated[Any, _Source()] | None = None
    WATCH: bool = False
    SETUP: Annotated[Any, _Function()] | None = None
    INTERCEPTORS: tuple[Annotated[Any, _Interceptor()], ...] = ()
    TIMEOUT: Seconds | None = None
    TIMEOUT_HEADERS: tuple[Annotated[str, _HeaderName()], ...] = Limits().timeout_headers
    REQUEST_ID_HEADER: Annotated[str, _HeaderName()] = Limits().request_id_header
    HEALTH_REQUIRED: tuple[Annotated[str, Text(r".+", "the name of a plugin")], ...] | None = None


@attrs.frozen
class HostSettings:
    """The checked settings.

    Attributes:
        config: ``CONFIG``, what the manager loads.
        watch: ``WATCH``, whether it follows that file.
        setup: ``SETUP``, called with the manager before it loads.
        interceptors: ``INTERCEPTORS``, functions around each call of the manager.
        limits: ``TIMEOUT``, ``TIMEOUT_HEADERS`` and ``REQUEST_ID_HEADER``.
        required: ``HEALTH_REQUIRED``, the plugins without which the application is not ready; all when None.
    """

    config: ManagerConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None
    watch: bool = False
    setup: Callable[[Any], object] | None = None
    limits: Limits = attrs.field(factory=Limits)
    required: tuple[str, ...] | None = None
    interceptors: tuple[Interceptor, ...] = ()

    @property
    def watched(self) -> str | None:
        """The path of the watched file, if there is one."""
        return os.fspath(self.config) if self.watch and isinstance(self.config, str | os.PathLike) else None

    @classmethod
    def of(cls, values: object, source: str) -> HostSettings:
        """Reads plain values.

        Args:
            values: a mapping with the names above.
            source: its name in error messages, such as ``settings.GOPLUGINS``.

        Raises:
            ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
        """
        given, problems = read(_Fields, values)
        errors = []
        for path, error in problems:
            error.path = source + "".join(f"[{step!r}]" for step in path)
            errors.append(error)
        if given is not None and given.WATCH and not isinstance(given.CONFIG, str | os.PathLike):
            fix = "give CONFIG as a path, or leave WATCH out"
            errors.append(InvalidConfigError("there is no file to follow", path=f"{source}['WATCH']", fix=fix))
        if errors or given is None:
            raise InvalidConfigError.of(errors, source)
        limits = Limits(given.TIMEOUT, given.TIMEOUT_HEADERS, given.REQUEST_ID_HEADER)
        return cls(given.CONFIG, given.WATCH, given.SETUP, limits, given.HEALTH_REQUIRED, given.INTERCEPTORS)
