"""The plugin that the servers serve, and that runs in the caller's own process."""

from __future__ import annotations

import os
import time
from typing import Any

from goplugins import serve


@serve.plugin(name="echo")
def echo(request: Any) -> Any:
    """Returns the request and the process id; after ``seconds``, if the request has any."""
    seconds = request.get("seconds", 0) if isinstance(request, dict) else 0
    if seconds:
        time.sleep(seconds)
    return {"request": request, "pid": os.getpid()}
