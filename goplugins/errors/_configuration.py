"""Errors of configurations: codes 1000 to 1199."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goplugins.errors._base import _JSON_FIELDS, PluginError, Verdict

# --- configuration, 1000 to 1099 -------------------------------------------------------------------------------


_MAX_SHOWN = 50
"""Problems in the text of an error; ``problems`` has all of them."""

_ANY_SOURCE = "configuration"
"""Name of a source that has none of its own; left out of messages that name the field's path."""


class ConfigError(PluginError, ValueError):
    """A configuration that can't be used.

    Attributes:
        path: the field, such as ``plugins[2].retry.max_retries``.
        fix: what to write there.
        source: where the field stands, such as a file's name; set on the error that is raised, not on each of its
            ``problems``.
    """

    code = "PLUGIN_1012"
    verdict = Verdict.IGNORED
    fallback = "never"
    _json_fields = (*_JSON_FIELDS, "path", "fix", "source")

    def __init__(
        self,
        message: str = "",
        state: Mapping[str, Any] | None = None,
        *,
        path: str = "",
        fix: str = "",
        source: str = "",
        **attributes: Any,
    ) -> None:
        self.path = path
        self.fix = fix
        self.source = source
        super().__init__(message, state, **attributes)

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        """All problems found: this one, or those that an :class:`InvalidConfigError` holds."""
        return (self,)

    def __str__(self) -> str:
        source = f"{self.source}: " if self.source not in ("", self.path, _ANY_SOURCE) else ""
        where = f"{self.path}: " if self.path else ""
        fix = f" ({self.fix})" if self.fix else ""
        return f"[{self.code}] {source}{where}{self.message}{fix}"


class InvalidConfigError(ConfigError):
    """A wrong or unknown field, or several problems at once (then ``problems`` has each)."""

    def __init__(
        self,
        message: str = "",
        state: Mapping[str, Any] | None = None,
        *,
        problems: Sequence[ConfigError] = (),
        **kw: Any,
    ) -> None:
        self._problems = tuple(problems)
        super().__init__(message, state, **kw)

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        return self._problems or (self,)

    def __str__(self) -> str:
        if not self._problems:
            return super().__str__()
        lines = "".join(f"\n  - {problem}" for problem in self._problems[:_MAX_SHOWN])
        if len(self._problems) > _MAX_SHOWN:
            lines += f"\n  - and {len(self._problems) - _MAX_SHOWN} more"
        return f"[{self.code}] {self.message}{lines}"

    @classmethod
    def of(cls, problems: Sequence[ConfigError], source: str = _ANY_SOURCE) -> ConfigError:
        """The problem itself if it is the only one, else an error that holds them all; ``source`` is set on it."""
        if len(problems) == 1:
            problems[0].source = problems[0].source or source
            return problems[0]
        return cls(f"{source}: {len(problems)} problems", problems=problems, source=source)


class InvalidPluginNameError(ConfigError):
    """A plugin's name is missing or has characters that a name can't have."""

    code = "PLUGIN_1001"


class InvalidTransportError(ConfigError):
    """A plugin has no transport."""

    code = "PLUGIN_1002"


class MissingEndpointError(ConfigError):
    """A plugin whose transport needs an endpoint has none."""

    code = "PLUGIN_1003"


class InvalidEndpointURLError(ConfigError):
    """The endpoint is not a URL that this transport can call."""

    code = "PLUGIN_1004"


class InvalidEndpointFormatError(ConfigError):
    """The endpoint is not an address of the form that this transport expects."""

    code = "PLUGIN_1005"


class MissingSocketPathError(ConfigError):
    """A plugin on transport unix has no socket path."""

    code = "PLUGIN_1006"


class MissingExecutableError(ConfigError):
    """A plugin on transport exec has no executable."""

    code = "PLUGIN_1007"


class UnsupportedTransportError(ConfigError):
    """The transport does not exist, or no factory is registered for it."""

    code = "PLUGIN_1008"


class NoPluginsConfiguredError(ConfigError):
    """The configuration has no plugin."""

    code = "PLUGIN_1009"


class DuplicatePluginNameError(ConfigError):
    """Two plugins have the same name."""

    code = "PLUGIN_1010"


class ConfigSyntaxError(ConfigError):
    """The text is not valid JSON, TOML or YAML."""

    code = "PLUGIN_1011"


class UnresolvedVariableError(ConfigError):
    """``${VAR}`` refers to a variable that is not set, and has no default."""

    code = "PLUGIN_1013"


class ConfigFileError(ConfigError):
    """The configuration file is missing, unreadable, or of an unknown kind."""

    code = "PLUGIN_1014"


class ReloadError(PluginError):
    """A valid configuration could not be applied; the running one stays. ``plugin`` names the plugin that failed.

    ``details["plugins"]`` has the reason for each plugin that could not be built or reached.
    """

    code = "PLUGIN_1015"
    retryable = True
    verdict = Verdict.IGNORED
    fallback = "never"


# --- authentication, 1100 to 1199 ------------------------------------------------------------------------------


class AuthConfigError(ConfigError):
    """The ``auth`` section can't be used."""

    code = "AUTH_1100"


class MissingAPIKeyError(AuthConfigError):
    """Method api-key needs ``api_key``."""

    code = "AUTH_1101"


class MissingBearerTokenError(AuthConfigError):
    """Method bearer needs ``token`` or ``token_file``."""

    code = "AUTH_1102"


class MissingBasicCredentialsError(AuthConfigError):
    """Method basic needs ``username`` and ``password``."""

    code = "AUTH_1103"


class MissingMTLSCertsError(AuthConfigError):
    """Method mtls needs ``cert_file`` and ``key_file``."""

    code = "AUTH_1104"


class UnsupportedAuthMethodError(AuthConfigError):
    """The authentication method does not exist, or is missing."""

    code = "AUTH_1105"


class InvalidCertificateError(AuthConfigError):
    """A certificate, key or CA file is missing or can't be used."""

    code = "AUTH_1106"
