"""Which fields are for which transports: what a plugin's transport would ignore is refused."""

from __future__ import annotations

from collections.abc import Mapping

from goplugins.config.credentials import AuthConfig
from goplugins.config.plugin import BUILT_IN_KINDS, PluginConfig, kind_of_plugin
from goplugins.config.problems import Problems
from goplugins.enums import AuthMethod, TransportType
from goplugins.errors import InvalidConfigError

__all__ = ["check_belonging"]

_HTTP = frozenset({TransportType.HTTP, TransportType.HTTPS})
_GRPC = frozenset({TransportType.GRPC, TransportType.GRPC_TLS})
_PROCESS = frozenset({TransportType.EXECUTABLE})
_FIELDS: Mapping[str, frozenset[TransportType]] = {
    "endpoint": frozenset(TransportType) - _PROCESS,
    **dict.fromkeys(("executable", "args", "env", "work_dir"), _PROCESS),
}
_FIX: Mapping[str, str] = {
    "endpoint": "leave it out: executable says what to run",
    "executable": "leave it out, or write transport: exec",
}
_NO_AUTH = (None, AuthConfig(), AuthConfig(method=AuthMethod.NONE))


def check_belonging(raw: PluginConfig, transport: TransportType, problems: Problems) -> None:
    """Notes fields that ``raw`` sets and its built-in transport has no use for; a factory of code may have one."""
    if kind_of_plugin(raw.type, transport) not in set(BUILT_IN_KINDS.values()):
        return
    for name, transports in _FIELDS.items():
        if getattr(raw, name) and transport not in transports:
            fix = _FIX.get(name, "leave it out: only exec has it")
            problems.add(InvalidConfigError, f"is not for transport {transport}", fix, name)
    if raw.health_check is not None and raw.health_check.endpoint and transport not in _HTTP | _GRPC:
        fix = "leave it out: health is asked where calls go"
        problems.add(InvalidConfigError, f"is not for transport {transport}", fix, "health_check", "endpoint")
    if transport is TransportType.PYTHON and raw.auth not in _NO_AUTH:
        fix = "leave it out: a call within this process carries no credential"
        problems.add(InvalidConfigError, f"is not for transport {transport}", fix, "auth")
