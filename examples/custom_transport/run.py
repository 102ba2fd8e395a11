"""Starts the server, calls it through the transport, and shows a retry after a restart."""

import subprocess
import sys
import tempfile
from pathlib import Path

from transport import FramedFactory

from goplugins import Manager, PluginRequestError

HERE = Path(__file__).parent


def start(path: str) -> "subprocess.Popen[str]":
    server = subprocess.Popen([sys.executable, HERE / "server.py", path], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    print(server.stdout.readline().strip())
    return server


def stop(server: "subprocess.Popen[str]") -> None:
    server.terminate()
    server.communicate()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, Manager() as manager:
        path = f"{folder}/shout.sock"
        server = start(path)
        manager.register_factory("framed", FramedFactory())
        plugin = {"name": "shout", "type": "framed", "transport": "unix", "endpoint": path}
        manager.load_from_config({"plugins": [plugin]})
        print("shout('hello') ->", manager.execute("shout", "hello"))
        print("health ->", manager.health()["shout"].status)
        try:
            manager.execute("shout", 1)
        except PluginRequestError as error:
            print("shout(1) ->", error)
        stop(server)
        server = start(path)
        result = manager.execute_result("shout", "again")
        print(f"after a restart: {result.value}, attempts: {result.attempts}")
        stop(server)
