"""For authors of plugins: makes a plugin of a typed function, which Go and Python clients can call.

>>> from goplugins import serve
>>> @serve.plugin(version="1.0.0")
... def shout(request: str) -> str:
...     return request.upper()
>>> shout("hello")
'HELLO'

``serve.run(shout, "http://127.0.0.1:8000", "unix:///run/shout.sock")`` serves it until SIGTERM, over one or several
transports; ``serve.wsgi(shout)`` is an application for any WSGI server, and ``goplugins serve module:shout --http
:8000`` serves it from the command line. :class:`Plugin` has several functions, the operations of one plugin.
"""

from __future__ import annotations

from goplugins.models.reply import Reply
from goplugins.serve._contract import Rejected, Unavailable
from goplugins.serve._grpc import ServerTLS
from goplugins.serve._plugin import Plugin
from goplugins.serve._served_function import ServedPlugin, plugin
from goplugins.serve._server import RunningServer, run, start
from goplugins.serve._wsgi import wsgi

__all__ = [
    "Plugin",
    "Rejected",
    "Reply",
    "RunningServer",
    "ServedPlugin",
    "ServerTLS",
    "Unavailable",
    "plugin",
    "run",
    "start",
    "wsgi",
]
