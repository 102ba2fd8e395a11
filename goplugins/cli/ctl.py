"""``goplugins ctl``: acts on a plugin of a running process, by its dashboard."""

from __future__ import annotations

import argparse
import html
import math
import re
import sys
from urllib.parse import urlsplit

from goplugins.cli._common import headers_of, new_command
from goplugins.errors import InvalidArgumentError, PluginConnectionError, redact_url
from goplugins.runtime.text import printable

_ACTIONS = ("reset", "close", "open", "disable", "enable", "check")
_TOKEN = re.compile(r'<meta name="token" content="([^"]*)"')
_TIMEOUT = 30.0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``ctl``."""
    parser = new_command(commands, "ctl", "act on a plugin of a running process", _execute)
    parser.add_argument(
        "action",
        choices=_ACTIONS,
        help="reset, close or open its circuit breaker; disable or enable it; check its health",
    )
    parser.add_argument("name", metavar="NAME", help="name of the plugin or group")
    parser.add_argument("--member", metavar="NAME", default="", help="act on this member of the group")
    parser.add_argument(
        "--drain-timeout",
        type=float,
        metavar="SECONDS",
        help="with disable: wait so long at most for calls in flight; the exit code is 1 if some are left",
    )
    parser.add_argument("--url", metavar="URL", required=True, help="dashboard of the process, with actions allowed")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="sent to the dashboard, which decides by it whether you may act; may be repeated",
    )


def _execute(arguments: argparse.Namespace) -> int:
    """Acts on a plugin of one running process, by its dashboard; the audit trail of the process records it.

    Exit code: 0 if it was done, 1 if the dashboard refused it, or calls were still in flight after the --drain-timeout,
    2 if the dashboard can't be reached.
    """
    import requests

    seconds = arguments.drain_timeout
    if seconds is not None and (arguments.action != "disable" or not 0 <= seconds < math.inf):
        raise InvalidArgumentError("--drain-timeout: expected seconds, 0 or more, with the action disable")

    url, shown = f"{arguments.url.rstrip('/')}/", printable(redact_url(arguments.url))
    if not url.startswith(("http://", "https://")):
        raise InvalidArgumentError(f"--url: expected http:// or https://, got {shown}")
    headers = headers_of(arguments.header)
    try:
        with requests.Session() as session:
            page = session.get(url, headers=headers, timeout=_TIMEOUT, allow_redirects=False)
            token = _TOKEN.search(page.text)
            if page.status_code != 200 or token is None:
                raise InvalidArgumentError(f"{shown} is not a dashboard (HTTP status {page.status_code})")
            target = urlsplit(url)
            headers |= {"Origin": f"{target.scheme}://{target.netloc.rpartition('@')[2]}"}
            order = {"plugin": arguments.name, "member": arguments.member}
            reply = session.post(
                f"{url}actions/{arguments.action}",
                json=order if seconds is None else order | {"drain_timeout": seconds},
                headers=headers | {"X-Goplugins-Token": html.unescape(token[1])},
                timeout=_TIMEOUT + (seconds or 0.0),
                allow_redirects=False,
            )
            answer = reply.json()
            text = str(answer["message" if reply.ok else "error"])
            done = reply.ok and (seconds is None or bool(answer["drained"]))
    except requests.RequestException as exc:
        raise PluginConnectionError(f"no answer from {shown}") from exc
    except (KeyError, TypeError) as exc:
        raise InvalidArgumentError(f"{shown} is not a dashboard of this version of goplugins") from exc
    (sys.stdout if done else sys.stderr).write(f"{printable(text)}\n")
    return 0 if done else 1
