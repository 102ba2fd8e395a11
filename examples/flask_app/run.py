"""Starts the plugin and the application, makes requests, prints the answers, and stops both."""

import http.client
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


@contextmanager
def plugin() -> Iterator[str]:
    """Runs the plugin in a process; yields its address."""
    command = [sys.executable, "-m", "goplugins", "serve", "quotes:quotes", "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.terminate()


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with plugin() as url:
        os.environ["QUOTES_URL"] = url
        sys.path.insert(0, str(HERE))
        from app import app
        from werkzeug.serving import make_server

        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path, headers in (
            ("/quote/ACME", {"X-Request-ID": "demo-1"}),
            ("/quote/NOPE", {"X-Request-ID": "demo-2"}),
            ("/quote/SLOW", {"X-Request-ID": "demo-3", "X-Request-Timeout": "500ms"}),
            ("/health/plugins", {}),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            started = time.monotonic()
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read().decode().strip()
            took = time.monotonic() - started
            print(f"GET {path} {headers or ''} -> {answer.status} {body} in {took:.1f} s", flush=True)
            connection.close()
        server.shutdown()


if __name__ == "__main__":
    main()
