"""Requirements between plugins: versions of goplugins, other plugins, no circles."""

from __future__ import annotations

from collections.abc import Mapping

from goplugins.discovery.report import DiscoveredPlugin
from goplugins.discovery.versions import parse_version, satisfies

ANY = "*"


def too_old(plugin: DiscoveredPlugin, version: str) -> str:
    """Why a plugin can't be used with this version of goplugins; empty if it can."""
    wanted = plugin.manifest.requirements.min_version
    if not wanted or parse_version(version) >= parse_version(wanted):
        return ""
    return f"requirements.min_version: needs goplugins {wanted}, this is {version} (upgrade goplugins)"


def unmet(
    found: Mapping[str, DiscoveredPlugin], others: Mapping[str, str | None], left_out: Mapping[str, str]
) -> dict[str, str]:
    """The plugins whose requirements are not met, each with the reason.

    Args:
        found: the discovered plugins.
        others: all other plugins, with their version if it is known.
        left_out: plugins that were left out already, and why.
    """
    reasons = {name: reason for name, plugin in found.items() if (reason := _missing(plugin, found, others, left_out))}
    for circle in _circles(found):
        text = " -> ".join((*circle, circle[0]))
        for name in circle:
            reasons.setdefault(name, f"requirements.requires: circular: {text} (remove one of them)")
    return reasons


def _missing(
    plugin: DiscoveredPlugin,
    found: Mapping[str, DiscoveredPlugin],
    others: Mapping[str, str | None],
    left_out: Mapping[str, str],
) -> str:
    for name, wanted in sorted(plugin.manifest.requirements.requires.items()):
        required = found.get(name)
        if name in others:
            fault = _mismatch(others[name], wanted)
        elif required is None:
            fault = "which was left out as well" if name in left_out else "which does not exist"
        elif required.config.enabled is False:
            fault = "which is not enabled"
        else:
            fault = _mismatch(required.manifest.version, wanted)
        if fault:
            return f"requirements.requires: needs {name!r}{'' if wanted == ANY else f' {wanted}'}, {fault}"
    return ""


def _mismatch(version: str | None, wanted: str) -> str:
    if wanted.strip() in {"", ANY}:
        return ""
    if not version:
        return 'whose version is unknown (in the configuration, write labels: {version: "1.2"})'
    try:
        return "" if satisfies(version, wanted) else f"but its version is {version}"
    except ValueError as exc:
        return f"but {exc}"


def _circles(found: Mapping[str, DiscoveredPlugin]) -> list[list[str]]:
    """Each circle once, beginning with its first name in order; a plugin is part of one circle at most."""
    circles: list[list[str]] = []
    done: set[str] = set()
    for start in sorted(found):
        path = [start] if start not in done else []
        branches = [_required(found, start)] if path else []
        while path:
            name = branches[-1].pop(0) if branches[-1] else None
            if name is None:
                done.add(path.pop())
                branches.pop()
            elif name in path:
                circle = path[path.index(name) :]
                first = circle.index(min(circle))
                circles.append(circle[first:] + circle[:first])
            elif name not in done:
                path.append(name)
                branches.append(_required(found, name))
    return circles


def _required(found: Mapping[str, DiscoveredPlugin], name: str) -> list[str]:
    return sorted(each for each in found[name].manifest.requirements.requires if each in found)
