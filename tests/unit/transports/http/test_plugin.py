"""The HTTP transport without a server."""

from __future__ import annotations


def test_import_of_the_transport_is_light():
    """`requests` and `urllib3` are loaded with the first plugin, not with the package."""
    import subprocess
    import sys

    code = "import goplugins.transports.http, sys; print([m for m in ('requests', 'urllib3') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
