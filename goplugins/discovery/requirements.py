"""Whether what plugins need is there: goplugins itself, other plugins, and no circle among them."""

from __future__ import annotations

from collections.abc import Mapping

from goplugins.discovery.report import DiscoveredPlugin
from goplugins.discovery.versions import parse_version, satisfies

__all__ = ["ANY", "too_old", "unmet"]

ANY = "*"


def too_old(plugin: DiscoveredPlugin, version: str) -> str:
    """Why a plugin can't be used with this version of goplugins; empty if it can."""
    wanted = plugin.manifest.requirements.min_version
    if not wanted or parse_version(version) >= parse_version(wanted):
        return ""
    return f"requirements.min_version: needs goplugins {wanted}, this is {version} (upgrade goplugins)"


def unmet(
    found: Mapping[str, DiscoveredPlugin], others: Mapping[str, str | None], gone: Mapping[str, str]
) -> dict[str, str]:
    """The plugins whose requirements are not met, each with the reason.

    Args:
        found: who is there by discovery.
        others: who is there besides, with the version if one is known.
        gone: who was left out already, and why.
    """
    reasons = {name: reason for name, plugin in found.items() if (reason := _missing(plugin, found, others, gone))}
    for circle in _circles(found):
        text = " -> ".join((*circle, circle[0]))
        for name in circle:
            reasons.setdefault(name, f"requirements.requires: goes in a circle: {text} (take one of them out)")
    return reasons


def _missing(
    plugin: DiscoveredPlugin,
    found: Mapping[str, DiscoveredPlugin],
    others: Mapping[str, str | None],
    gone: Mapping[str, str],
) -> str:
    for name, wanted in sorted(plugin.manifest.requirements.requires.items()):
        fault = _fault(name, wanted, found, others, gone)
        if fault:
            return f"requirements.requires: needs {name!r}{'' if wanted == ANY else f' {wanted}'}, {fault}"
    return ""


def _fault(
    name: str,
    wanted: str,
    found: Mapping[str, DiscoveredPlugin],
    others: Mapping[str, str | None],
    gone: Mapping[str, str],
) -> str:
    if name in others:
        return _mismatch(others[name], wanted)
    if name not in found:
        return "which was left out itself" if name in gone else "and there is no such plugin"
    if found[name].config.enabled is False:
        return "which is not enabled"
    return _mismatch(found[name].manifest.version, wanted)


def _mismatch(version: str | None, wanted: str) -> str:
    if wanted.strip() in {"", ANY}:
        return ""
    if not version:
        return 'whose version is not known (a configured plugin says it as labels: {version: "1.2"})'
    try:
        return "" if satisfies(version, wanted) else f"and there is version {version}"
    except ValueError as exc:
        return f"and there {exc}"


def _circles(found: Mapping[str, DiscoveredPlugin]) -> list[list[str]]:
    """Each circle once, beginning with its first name; every plugin is in one at most that is told."""
    circles: list[list[str]] = []
    done: set[str] = set()
    for start in sorted(found):
        way = [start] if start not in done else []
        branches = [_needs(found, start)] if way else []
        while way:
            name = branches[-1].pop(0) if branches[-1] else None
            if name is None:
                done.add(way.pop())
                branches.pop()
            elif name in way:
                circle = way[way.index(name) :]
                first = circle.index(min(circle))
                circles.append(circle[first:] + circle[:first])
            elif name not in done:
                way.append(name)
                branches.append(_needs(found, name))
    return circles


def _needs(found: Mapping[str, DiscoveredPlugin], name: str) -> list[str]:
    return sorted(each for each in found[name].manifest.requirements.requires if each in found)
