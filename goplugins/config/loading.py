"""Loading a configuration from a file, a mapping or a value."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from goplugins.config.manager import Extension, FurtherCheck, ManagerConfig, load


def load_config(
    source: ManagerConfig | Mapping[str, Any] | str | os.PathLike[str], *, environ: Mapping[str, str] | None = None
) -> ManagerConfig:
    """Reads, expands and validates a configuration. Fields that are left out stay so; see ``with_defaults``.

    In every text, ``${VAR}`` is replaced by the variable's value. ``${VAR:default}`` has a default, which follows the
    colon immediately and contains no variable; ``$${`` is a plain ``${``. A text that consists of one ``${VAR}`` can
    also set a number, a switch or a duration. Variables such as ``GOPLUGINS__PLUGINS__AUTH__ENDPOINT`` override the
    values of a file, but not those of a mapping or a ``ManagerConfig``.

    Args:
        source: the configuration, a mapping, or the path of a .json, .toml, .yaml or .yml file.
        environ: the variables; the process's environment when left out.

    Raises:
        ConfigFileError: the file is missing, unreadable or of an unknown kind.
        ConfigSyntaxError: the file is not valid JSON, TOML or YAML; with line and column.
        ConfigError: all other problems at once, each with its path.

    >>> config = load_config(
    ...     {"plugins": [{"name": "a", "transport": "http", "endpoint": "http://${HOST}/a",
    ...                   "retry": {"max_retries": "${RETRIES:2}"}}]},
    ...     environ={"HOST": "a.example.com"},
    ... )
    >>> config.plugins[0].endpoint, config.plugins[0].retry.max_retries
    ('http://a.example.com/a', 2)
    """
    return load(source, os.environ if environ is None else environ).config


def load_resolved(
    source: ManagerConfig | Mapping[str, Any] | str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    further: FurtherCheck | None = None,
    registered: Collection[str] | None = None,
    extend: Extension | None = None,
) -> ManagerConfig:
    """As :func:`load_config`, with the defaults filled in and certificate files checked, for immediate use.

    All problems are reported at once.

    Args:
        source: as for :func:`load_config`.
        environ: as for :func:`load_config`.
        further: further checks. Called with the configuration with its defaults, and the indexes of plugins that have
            problems already, so that a check can skip those; returns problems with their paths. Fields that can't be
            read are missing from the configuration.
        registered: as for :meth:`ManagerConfig.validate`.
        extend: adds further plugins to a configuration without type errors, before it is checked as a whole.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    return load(
        source,
        os.environ if environ is None else environ,
        check_files=True,
        further=further,
        registered=registered,
        extend=extend,
    ).resolved
