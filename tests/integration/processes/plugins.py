"""What the servers serve, and what runs in the caller's own process."""

from __future__ import annotations

import os
import time
from typing import Any

from goplugins import serve


@serve.plugin(name="teller")
def tell(request: Any) -> Any:
    """Says what it was asked and in which process; after ``seconds``, if it is told any."""
    seconds = request.get("seconds", 0) if isinstance(request, dict) else 0
    if seconds:
        time.sleep(seconds)
    return {"said": request, "pid": os.getpid()}
