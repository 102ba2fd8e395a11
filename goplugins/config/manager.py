"""The whole configuration of a manager: its sections, reading it, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set as AbstractSet
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from goplugins.config.credentials import check_auth_files
from goplugins.config.defaults import INHERITED, merge_sections
from goplugins.config.field_types import LogLevel, Port
from goplugins.config.manager_sections import DiscoveryConfig, LoadBalancerConfig, ObservabilityConfig, check_balancer
from goplugins.config.plugin import PluginConfig, check_plugin, resolve_plugin
from goplugins.config.plugin_sections import (
    DEFAULT_CIRCUIT_BREAKER,
    DEFAULT_CONNECTION,
    DEFAULT_HEALTH_CHECK,
    DEFAULT_RATE_LIMIT,
    DEFAULT_RETRY,
    CircuitBreakerConfig,
    ConnectionConfig,
    HealthCheckConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.config.policy_validation import check_breaker, check_retry
from goplugins.config.problems import Problem, Problems, independent, path_parts, raise_for, untouched
from goplugins.config.references import Names
from goplugins.config.schema import Section, as_mappings, as_tuple, merge
from goplugins.errors import ConfigError, InvalidConfigError, NoPluginsConfiguredError

if TYPE_CHECKING:
    from goplugins.config.environment import Override


def _plugins(value: Iterable[PluginConfig]) -> tuple[PluginConfig, ...]:
    return as_tuple(value)


def _balancers(value: Iterable[LoadBalancerConfig]) -> tuple[LoadBalancerConfig, ...]:
    return as_tuple(value)


@attrs.frozen(kw_only=True, repr=False)
class ManagerConfig(Section):
    """The configuration of a manager. ``ManagerConfig()`` has the production defaults.

    Attributes:
        log_level: debug, info, warning, error or critical, for the loggers below ``goplugins``; no level is set when
            left out.
        metrics_port: port that serves metrics; 0 for any free one. Off when left out.
        default_retry: for fields that a plugin's own section leaves out. So are the next four.
        default_circuit_breaker: see ``default_retry``.
        default_health_check: see ``default_retry``.
        default_connection: see ``default_retry``.
        default_rate_limit: see ``default_retry``.
        plugins: the plugins.
        discovery: finding further plugins in directories.
        load_balancers: load-balanced groups of plugins.
        observability: metrics, traces and log lines.

    >>> config = ManagerConfig.from_mapping({
    ...     "plugins": [{"name": "auth", "transport": "https", "endpoint": "https://auth.example.com/validate",
    ...                  "retry": {"initial_interval": "250ms"}}],
    ... })
    >>> config.with_defaults().plugins[0].retry
    RetryConfig(max_retries=3, initial_interval=0.25, max_interval=5.0, multiplier=2.0, random_jitter=True, \
idempotent=False, budget_ratio=0.2)
    """

    log_level: LogLevel | None = None
    metrics_port: Port | None = None
    default_retry: RetryConfig = DEFAULT_RETRY
    default_circuit_breaker: CircuitBreakerConfig = DEFAULT_CIRCUIT_BREAKER
    default_health_check: HealthCheckConfig = DEFAULT_HEALTH_CHECK
    default_connection: ConnectionConfig = DEFAULT_CONNECTION
    default_rate_limit: RateLimitConfig = DEFAULT_RATE_LIMIT
    plugins: tuple[PluginConfig, ...] = attrs.field(default=(), converter=_plugins)
    discovery: DiscoveryConfig = attrs.field(factory=DiscoveryConfig)
    load_balancers: tuple[LoadBalancerConfig, ...] = attrs.field(default=(), converter=_balancers)
    observability: ObservabilityConfig = attrs.field(factory=ObservabilityConfig)

    def with_defaults(self) -> ManagerConfig:
        """The same configuration with nothing left to inherit; doing it twice changes nothing.

        ``default_circuit_breaker.max_recovery_timeout`` alone may stay None: it follows from each plugin's own
        ``recovery_timeout``.
        """
        base = self._with_default_sections()
        defaults = base._section_defaults()
        return attrs.evolve(
            base,
            plugins=tuple(resolve_plugin(plugin, defaults) for plugin in self.plugins),
            load_balancers=tuple(base._resolve_balancer(balancer) for balancer in self.load_balancers),
        )

    def resolve(self, plugin: PluginConfig) -> PluginConfig:
        """One plugin with nothing left to inherit: its own fields, else this configuration's, else the production's.

        For a plugin that is not part of this configuration, such as one from discovery or code.
        """
        return resolve_plugin(plugin, self._with_default_sections()._section_defaults())

    def validate(self, *, registered: Collection[str] | None = None) -> None:
        """Checks the configuration with its defaults filled in, so that what is left out is never a problem.

        Args:
            registered: names of plugins registered in code. When given, members of balanced groups and fallbacks
                must be among those and the configured ones; else such names are not looked up.

        Raises:
            ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
        """
        from goplugins.config.conversion import type_problems

        if self.discovery.enabled:
            registered = None  # discovery may find further plugins
        found = type_problems(self) or semantic_problems(self, self.with_defaults(), registered)
        raise_for(found, "configuration")

    def check_files(self) -> None:
        """Checks that the certificate, key, CA and token files of enabled plugins exist.

        Not part of :meth:`validate`, so that a configuration can be checked on another machine.

        Raises:
            InvalidCertificateError: for one file, or an :class:`~goplugins.errors.InvalidConfigError` for several.
        """
        raise_for(file_problems(self), "configuration")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str = "configuration") -> ManagerConfig:
        """Reads plain values, as from JSON; ``${VAR}`` stays as it is (``from_file`` and the manager expand it).

        Args:
            mapping: field names to values; durations as seconds or as text such as ``"1m30s"``.
            source: name of the source in error messages.

        Raises:
            ConfigError: unknown fields and wrong values, all of them, each with its path.
        """
        from goplugins.config.conversion import structure

        return structure(cls, mapping, source=source)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "configuration") -> ManagerConfig:
        """Reads JSON text as :meth:`from_mapping` reads a mapping.

        Raises:
            ConfigError: as :meth:`from_mapping`; a :class:`~goplugins.errors.ConfigSyntaxError` for text that isn't
                JSON or has a key twice.
        """
        from goplugins.config.json_text import parse_json

        return cls.from_mapping(parse_json(text, source), source=source)

    @classmethod
    def from_go_json(cls, text: str | bytes, *, source: str = "configuration") -> ManagerConfig:
        """Reads JSON that the Go library wrote: durations are integer nanoseconds, and every field is present.

        A section of zeros, and elsewhere a zero number or ``keep_alive: false``, means "left out". A ``time_window``
        is read as one second, since the Go library ignores it: its rates are those of a second.

        Raises:
            ConfigError: as :meth:`from_json`.
        """
        from goplugins.config.go_json import structure_go_json

        return structure_go_json(cls, text, source)

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> ManagerConfig:
        """Reads a .json, .toml, .yaml or .yml file, expands ``${VAR}`` from the environment, and validates.

        Raises:
            ConfigError: all problems found, each with its path.
        """
        return load(os.fspath(path)).config

    def to_json(self, *, include_secrets: bool = False) -> str:
        """JSON text that :meth:`from_json` reads; durations as seconds.

        Args:
            include_secrets: without it, credentials are written as ``***``, and the text can't be loaded again.

        Raises:
            InvalidConfigError: a value that only code can set (a fallback function, an object among the options).
        """
        from goplugins.config.json_text import dump_json

        return dump_json(self, include_secrets=include_secrets)

    def _with_default_sections(self) -> ManagerConfig:
        own = self._section_defaults()
        sections: dict[str, Any] = {f"default_{name}": merge(own[name], base) for name, base in INHERITED.items()}
        return attrs.evolve(self, **sections)

    def _section_defaults(self) -> dict[str, Any]:
        return {name: getattr(self, f"default_{name}") for name in INHERITED}

    def _resolve_balancer(self, balancer: LoadBalancerConfig) -> LoadBalancerConfig:
        limited = attrs.evolve(balancer, rate_limit=balancer.rate_limit or RateLimitConfig(enabled=False))
        return attrs.evolve(
            limited,
            request_timeout=balancer.request_timeout or self.default_connection.request_timeout,
            **merge_sections(limited, {"retry": self.default_retry, "rate_limit": self.default_rate_limit}),
        )


# --- checks --------------------------------------------------------------------------------------------------------


def semantic_problems(
    config: ManagerConfig, resolved: ManagerConfig, registered: Collection[str] | None = None
) -> list[Problem]:
    """What is wrong with a configuration whose every field has the right type.

    Args:
        config: the configuration as it was written.
        resolved: the same with its defaults.
        registered: as for :meth:`ManagerConfig.validate`.
    """
    problems = Problems()
    check_breaker(resolved.default_circuit_breaker, problems.below("default_circuit_breaker"))
    check_retry(config.default_retry, resolved.default_retry, problems.below("default_retry"))
    for index, plugin in enumerate(config.plugins):
        check_plugin(plugin, resolved.plugins[index], problems.below("plugins", index))
    for index, balancer in enumerate(config.load_balancers):
        check_balancer(balancer, resolved.load_balancers[index], problems.below("load_balancers", index))
    discovery = config.discovery
    if not (config.plugins or config.load_balancers or discovery.enabled):
        fix = "add a plugin, enable discovery, or register plugins in code without loading a configuration"
        problems.add(NoPluginsConfiguredError, "no plugin is configured", fix, "plugins")
    if discovery.enabled and not (discovery.directories or discovery.entry_points):
        fix = "name a directory to scan"
        problems.add(InvalidConfigError, "is required if discovery is enabled", fix, "discovery", "directories")
    Names(config.plugins, config.load_balancers).check(registered, problems)
    return problems.found


def file_problems(config: ManagerConfig) -> list[Problem]:
    """Certificate, key, CA and token files of enabled plugins that can't be read on this machine."""
    problems = Problems()
    for index, plugin in enumerate(config.plugins):
        if plugin.enabled is not False and plugin.auth is not None:
            check_auth_files(plugin.auth, problems.below("plugins", index, "auth"))
    return problems.found


# --- loading -------------------------------------------------------------------------------------------------------


FurtherCheck: TypeAlias = Callable[[ManagerConfig, AbstractSet[int]], Iterable[ConfigError]]
Extension: TypeAlias = Callable[[ManagerConfig], ManagerConfig]


@attrs.frozen
class Source:
    """Where a configuration comes from.

    Attributes:
        name: the file's path, or ``configuration``.
        values: plain values, with overrides applied and ``${VAR}`` as it is.
        data: the content of the file; None if the source is not a file.
        overrides: the variables that set a field of the file.
    """

    name: str
    values: Any
    data: bytes | None = None
    overrides: tuple[Override, ...] = ()


@attrs.frozen
class Loaded:
    """A configuration as it was written, the same with its defaults, and its source."""

    config: ManagerConfig
    resolved: ManagerConfig
    source: Source


def load(
    source: ManagerConfig | Mapping[str, Any] | str | PathLike[str],
    environ: Mapping[str, str] | None = None,
    *,
    check_files: bool = False,
    further: FurtherCheck | None = None,
    registered: Collection[str] | None = None,
    extend: Extension | None = None,
) -> Loaded:
    """Reads, expands and validates a configuration, and reports all problems at once.

    In every text, ``${VAR}`` is replaced by the variable's value. ``${VAR:default}`` has a default, which follows the
    colon immediately and contains no variable; ``$${`` is a plain ``${``. A text that consists of one ``${VAR}`` can
    also set a number, a switch or a duration. Variables such as ``GOPLUGINS__PLUGINS__AUTH__ENDPOINT`` override the
    values of a file, but not those of a mapping or a ``ManagerConfig``.

    Args:
        source: the configuration, a mapping, or the path of a .json, .toml, .yaml or .yml file.
        environ: the variables; the process's environment when left out.
        check_files: checks that certificate, key, CA and token files can be read, too.
        further: further checks. Called with the configuration with its defaults, and the indexes of plugins that have
            problems already, so that a check can skip those; returns problems with their paths. Fields that can't be
            read are missing from the configuration.
        registered: as for :meth:`ManagerConfig.validate`.
        extend: adds further plugins to a configuration without type errors, before it is checked as a whole.

    Raises:
        ConfigFileError: the file is missing, unreadable or of an unknown kind.
        ConfigSyntaxError: the file is not valid JSON, TOML or YAML; with line and column.
        ConfigError: all other problems at once, each with its path.

    >>> loaded = load(
    ...     {"plugins": [{"name": "a", "transport": "http", "endpoint": "http://${HOST}/a",
    ...                   "retry": {"max_retries": "${RETRIES:2}"}}]},
    ...     environ={"HOST": "a.example.com"},
    ... )
    >>> loaded.config.plugins[0].endpoint, loaded.resolved.plugins[0].retry.max_retries
    ('http://a.example.com/a', 2)
    """
    from goplugins.config.environment import expand

    environ = os.environ if environ is None else environ
    problems = Problems()
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "configuration"
    try:
        read = _read_source(source, name, environ, problems)
        values = expand(read.values, environ, problems)
        config, resolved, found = _judge(values, problems.found, check_files, further, registered, extend)
    except RecursionError:
        message, fix = "contains itself, or is nested too deeply", "write each value where it is used"
        raise InvalidConfigError(message, path=name, fix=fix) from None
    raise_for(found, name)
    assert config is not None and resolved is not None  # noqa: S101, PT018 - no problems
    return Loaded(config, resolved, read)


def _read_source(source: object, name: str, environ: Mapping[str, str], problems: Problems) -> Source:
    if isinstance(source, ManagerConfig | Mapping):
        return Source(name, as_mappings(source))
    if isinstance(source, str | os.PathLike):
        from goplugins.config.environment import override
        from goplugins.config.files import parse_file, read_file

        data = read_file(source)
        values, overrides = override(ManagerConfig, parse_file(data, name), environ, problems)
        return Source(name, values, data, overrides)
    message = f"expected a configuration, got a value of type {type(source).__name__}"
    fix = "put it under plugins:" if isinstance(source, list) else "pass a ManagerConfig, a mapping, or a file's path"
    raise InvalidConfigError(message, path="configuration", fix=fix)


def _judge(
    values: Any,
    unset: Sequence[Problem],
    check_files: bool,
    further: FurtherCheck | None,
    registered: Collection[str] | None,
    extend: Extension | None,
) -> tuple[ManagerConfig | None, ManagerConfig | None, list[Problem]]:
    from goplugins.config.conversion import read, read_without

    config, found = read(ManagerConfig, values)
    problems = [*unset, *untouched(found, [path for path, _ in unset])]
    wrong = [path for path, _ in problems]
    if problems:
        # The other fields are checked all the same, so that all problems are reported at once.
        config = read_without(ManagerConfig, values, wrong)
    if config is None:
        return None, None, problems
    if config.discovery.enabled:
        if extend is not None and not problems:
            config = extend(config)
        else:
            registered = None  # discovery may find further plugins
    resolved = config.with_defaults()
    later = semantic_problems(config, resolved, registered)
    if check_files:
        later += file_problems(resolved)
    problems += independent(untouched(later, wrong), wrong)
    if further is not None:
        problems += _further_problems(resolved, problems, further)
    return config, resolved, problems


def _further_problems(config: ManagerConfig, known: Sequence[Problem], further: FurtherCheck) -> list[Problem]:
    places = {error.path for _, error in known}
    wrong = {path[1] for path, _ in known if len(path) > 1 and path[0] == "plugins" and isinstance(path[1], int)}
    found = further(config, wrong)
    return [(path_parts(error.path), error) for error in found if error.path not in places]
