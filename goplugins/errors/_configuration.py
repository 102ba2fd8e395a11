"""What can be wrong with a configuration: codes 1000 to 1199."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goplugins.errors._base import _JSON_FIELDS, PluginError, Verdict

__all__ = [
    "AuthConfigError",
    "ConfigError",
    "ConfigFileError",
    "ConfigSyntaxError",
    "DuplicatePluginNameError",
    "InvalidCertificateError",
    "InvalidConfigError",
    "InvalidEndpointFormatError",
    "InvalidEndpointURLError",
    "InvalidPluginNameError",
    "InvalidTransportError",
    "MissingAPIKeyError",
    "MissingBasicCredentialsError",
    "MissingBearerTokenError",
    "MissingEndpointError",
    "MissingExecutableError",
    "MissingMTLSCertsError",
    "MissingSocketPathError",
    "NoPluginsConfiguredError",
    "ReloadError",
    "UnresolvedVariableError",
    "UnsupportedAuthMethodError",
    "UnsupportedTransportError",
]


# --- configuration, 1000 to 1099 -------------------------------------------------------------------------------


_ANY_SOURCE = "configuration"
"""What a source without a name of its own is called; not worth saying where the field's path is said."""


class ConfigError(PluginError, ValueError):
    """A configuration that can't be used; ``path`` names the field and ``fix`` says what to write there.

    ``source`` is where the field stands, such as a file's name. One problem of several leaves it to the error that
    holds them all.
    """

    code = "PLUGIN_1012"
    verdict = Verdict.IGNORED
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
        """All problems that were found: this one, or several of an :class:`InvalidConfigError`."""
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
        lines = "".join(f"\n  - {problem}" for problem in self._problems)
        return f"[{self.code}] {self.message}{lines}"

    @classmethod
    def of(cls, problems: Sequence[ConfigError], source: str = _ANY_SOURCE) -> ConfigError:
        """The one problem itself, or an error that holds them all; either names ``source``."""
        if len(problems) == 1:
            problems[0].source = problems[0].source or source
            return problems[0]
        return cls(f"{source}: {len(problems)} problems", problems=problems, source=source)


class InvalidPluginNameError(ConfigError):
    """A plugin's name is missing or has characters that a name can't have."""

    code = "PLUGIN_1001"


class InvalidTransportError(ConfigError):
    """A plugin names no transport."""

    code = "PLUGIN_1002"


class MissingEndpointError(ConfigError):
    """A transport that calls an address has none."""

    code = "PLUGIN_1003"


class InvalidEndpointURLError(ConfigError):
    """The endpoint is not a URL that this transport can call."""

    code = "PLUGIN_1004"


class InvalidEndpointFormatError(ConfigError):
    """The endpoint is not an address of the form that this transport takes."""

    code = "PLUGIN_1005"


class MissingSocketPathError(ConfigError):
    """A Unix socket plugin names no socket."""

    code = "PLUGIN_1006"


class MissingExecutableError(ConfigError):
    """An exec plugin names no executable."""

    code = "PLUGIN_1007"


class UnsupportedTransportError(ConfigError):
    """No such transport, or no factory for it."""

    code = "PLUGIN_1008"


class NoPluginsConfiguredError(ConfigError):
    """A configuration without any plugin."""

    code = "PLUGIN_1009"


class DuplicatePluginNameError(ConfigError):
    """Two plugins of one name."""

    code = "PLUGIN_1010"


class ConfigSyntaxError(ConfigError):
    """Text that is not the JSON, TOML or YAML that it should be."""

    code = "PLUGIN_1011"


class UnresolvedVariableError(ConfigError):
    """``${VAR}`` where VAR is not set and no default is given."""

    code = "PLUGIN_1013"


class ConfigFileError(ConfigError):
    """A configuration file that is missing, unreadable, or of an unknown kind."""

    code = "PLUGIN_1014"


class ReloadError(PluginError):
    """A new configuration reads well, but could not be applied: the running one stays. ``plugin`` is to blame.

    ``details["plugins"]`` says of each plugin that could not be built or reached, why.
    """

    code = "PLUGIN_1015"
    retryable = True
    verdict = Verdict.IGNORED


# --- authentication, 1100 to 1199 ------------------------------------------------------------------------------


class AuthConfigError(ConfigError):
    """An ``auth`` section that can't be used."""

    code = "AUTH_1100"


class MissingAPIKeyError(AuthConfigError):
    """Method api-key without ``api_key``."""

    code = "AUTH_1101"


class MissingBearerTokenError(AuthConfigError):
    """Method bearer without ``token``."""

    code = "AUTH_1102"


class MissingBasicCredentialsError(AuthConfigError):
    """Method basic without ``username`` and ``password``."""

    code = "AUTH_1103"


class MissingMTLSCertsError(AuthConfigError):
    """Method mtls without ``cert_file`` and ``key_file``."""

    code = "AUTH_1104"


class UnsupportedAuthMethodError(AuthConfigError):
    """No such authentication method."""

    code = "AUTH_1105"


class InvalidCertificateError(AuthConfigError):
    """A certificate, key or CA file that is missing or can't be used."""

    code = "AUTH_1106"
