"""The ``auth`` section of a specification's security schemes, with variables in place of the credentials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin

from goplugins.config.openapi.document import Node, printable
from goplugins.config.openapi.operations import Operation

_FLOWS = ("authorizationCode", "implicit", "password")


def auth_of(
    root: Node, operations: Sequence[Operation], prefix: str, endpoint: str, warn: Callable[[str, str], None]
) -> dict[str, Any]:
    """The section for the scheme that most operations accept; empty if none of them needs credentials.

    Args:
        root: the document.
        operations: those that are imported.
        prefix: of the names of variables.
        endpoint: URL of the service.
        warn: takes the name of an operation, and what could not be expressed.
    """
    schemes = (root.get("components") or Node(root.document, {}, ("components",))).table("securitySchemes")
    needs = {each.name: _alternatives(each.node, root) for each in operations}
    sections = {name: section for name, scheme in schemes.items() if (section := _section(scheme, prefix, endpoint))}
    counts = Counter(
        name for each in needs.values() for name in dict.fromkeys(_first(each, sections)) if name in sections
    )
    chosen = counts.most_common(1)[0][0] if counts else ""
    for operation, alternatives in needs.items():
        if (
            alternatives
            and {} not in alternatives
            and {chosen: True} not in [dict.fromkeys(a, True) for a in alternatives]
        ):
            text = " or ".join(" and ".join(map(printable, each)) for each in alternatives)
            has = f"the plugin has {printable(chosen)}" if chosen else "no such scheme can be configured"
            warn(operation, f"needs the credentials {text}: {has}")
    if not chosen:
        return {}
    scopes = sorted({scope for each in needs.values() for need in each for scope in need.get(chosen, ())})
    section = sections[chosen]
    if section["method"] == "oauth2" and scopes:
        section["scopes"] = scopes
    _warn_of_flow(schemes[chosen], section, lambda text: warn(f"auth ({printable(chosen)})", text))
    return section


def _alternatives(node: Node, root: Node) -> list[dict[str, list[str]]]:
    """What the credentials of an operation can be: schemes, each with its scopes."""
    of = node if node.get("security") is not None else root
    return [
        {name: [item.value for item in need.items(name) if isinstance(item.value, str)] for name in need.table()}
        for need in of.items("security")
    ]


def _first(alternatives: list[dict[str, list[str]]], known: Mapping[str, Any]) -> Iterator[str]:
    """Schemes that are enough alone; else those that are needed beside others."""
    alone = [name for each in alternatives if len(each) == 1 for name in each if name in known]
    yield from alone or [name for each in alternatives for name in each]


def _section(scheme: Node, prefix: str, endpoint: str) -> dict[str, Any]:
    """The section for a scheme; empty for one that can't be configured."""
    kind, where = scheme.text("type"), scheme.text("in")
    if kind == "http" and scheme.text("scheme").lower() == "basic":
        return {"method": "basic", "username": f"${{{prefix}_USERNAME}}", "password": f"${{{prefix}_PASSWORD}}"}
    if kind == "apiKey" and where in {"header", "query"}:
        return {"method": "api-key", "api_key": f"${{{prefix}_API_KEY}}", where: scheme.text("name")}
    if kind == "mutualTLS":
        return {"method": "mtls", "cert_file": f"${{{prefix}_CERT_FILE}}", "key_file": f"${{{prefix}_KEY_FILE}}"}
    flow = _client_credentials(scheme)
    if flow is not None:
        return {
            "method": "oauth2",
            "token_url": urljoin(f"{endpoint}/", flow.text("tokenUrl")),
            "client_id": f"${{{prefix}_CLIENT_ID}}",
            "client_secret": f"${{{prefix}_CLIENT_SECRET}}",
        }
    if kind in {"oauth2", "openIdConnect"} or (kind == "http" and scheme.text("scheme").lower() == "bearer"):
        return {"method": "bearer", "token": f"${{{prefix}_TOKEN}}"}
    return {}


def _client_credentials(scheme: Node) -> Node | None:
    flows = scheme.get("flows") if scheme.text("type") == "oauth2" else None
    return flows.get("clientCredentials") if flows is not None else None


def _warn_of_flow(scheme: Node, section: Mapping[str, Any], note: Callable[[str], None]) -> None:
    kind = scheme.text("type")
    if kind in {"oauth2", "openIdConnect"} and section["method"] == "bearer":
        flows = scheme.table("flows") if kind == "oauth2" else {}
        shown = ", ".join(name for name in _FLOWS if name in flows) or kind
        note(f"its tokens are for users ({shown}): get one elsewhere, and pass it as the variable")
